// --- Heat maps: rows x columns of numbers as colours, drawn on a canvas

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
// Between colours at even distances; share from 0 to 1.
function between(colours, share) {
  const at = Math.min(Math.max(share, 0), 1) * (colours.length - 1);
  const i = Math.min(Math.floor(at), colours.length - 2);
  return colours[i].map((c, k) => Math.round(c + (colours[i + 1][k] - c) * (at - i)));
}
const mixed = (first, last, share) => `rgb(${between([rgb(first), rgb(last)], share).join(" ")})`;

// Colours of numbers from low to high; below 0, where there is anything, has its own. `root`: by the
// square root, which shows small ones too.
function heatScale({ low, high, root = false }) {
  const stops = (names) => names.map((name) => rgb(css(name)));
  const above = stops(["--heat-none", "--heat-half", "--heat-full"]);
  const below = stops(["--heat-none", "--cold-half", "--cold-full"]);
  const most = low < 0 ? Math.max(-low, high) : high - low;
  const shape = root ? Math.sqrt : (x) => x;
  const of = (value) => {
    if (!finite(value)) return css("--soft");
    const share = (low < 0 ? value : value - low) / most;
    return `rgb(${between(share < 0 ? below : above, shape(Math.abs(share))).join(" ")})`;
  };
  return { low, high, of, root };
}

// What stands for a symbol that cannot be seen.
const visible = (symbol) => ({ " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" }[symbol] || symbol);

// Cells in a part of a canvas, with edges on whole pixels.
function paintCells(context, spec, left, top, width, height, ratio) {
  const edge = (from, size, i, n) => Math.round((from + (size * i) / n) * ratio) / ratio;
  for (let r = 0; r < spec.rows; ++r) {
    const y = edge(top, height, r, spec.rows), below = edge(top, height, r + 1, spec.rows);
    for (let c = 0; c < spec.columns; ++c) {
      const x = edge(left, width, c, spec.columns);
      context.fillStyle = spec.colours.of(spec.value(r, c));
      context.fillRect(x, y, edge(left, width, c + 1, spec.columns) - x, below - y);
    }
  }
}

function sizedContext(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return [context, ratio];
}

// Symbols along an axis, or the numbers of steps where they would not fit.
function axisMarks(symbols, count, cell) {
  if (symbols && cell >= 7) return symbols.map((symbol, i) => [i, visible(symbol)]);
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((n) => n * cell >= 28) || count;
  return [...Array(count).keys()].filter((i) => i === 0 || (i + 1) % every === 0)
      .map((i) => [i, number(i + 1)]);
}

// The scale's colours from low to high, with its ends in numbers.
function paintLegend(context, colours, right, y) {
  const width = 110, [low, high] = [number(colours.low), number(colours.high)];
  context.textAlign = "right";
  context.fillText(high, right, y);
  const end = right - context.measureText(high).width - 6;
  for (let i = 0; i < width; ++i) {
    const share = (i + 0.5) / width;
    context.fillStyle = colours.of(colours.low + (colours.high - colours.low) * share);
    context.fillRect(end - width + i, y - 5, 1.5, 10);
  }
  context.strokeStyle = css("--line");
  context.strokeRect(end - width, y - 5, width + 0.5, 10);
  context.fillStyle = css("--soft");
  context.fillText(low, end - width - 6, y);
}

// spec: title, note, wide, rows, columns, value(row, column), tip(row, column), colours (a scale, made
// anew for each painting), across and down (names of the axes), symbols (of the columns), sideways
// (of the rows, or none), cell (height of a row for a width of a column).
function heatmap(host, spec) {
  const box = element("div", "", { class: "map" });
  const canvas = element("canvas", "", { role: "img", "aria-label": spec.title });
  const tip = element("div", "", { class: "tip", hidden: "" });
  box.append(canvas, tip);
  frame(host, spec.title, spec.note, spec.wide).append(box);
  let area = null;
  const paint = () => {
    const colours = spec.colours();
    const left = 40, right = 4, bottom = 44, top = 4;
    const room = printing ? (spec.wide ? 720 : 350) : box.clientWidth || 600;
    const width = Math.min(room - left - right, spec.most || Infinity);
    const cellWidth = width / spec.columns, cellHeight = spec.cell(cellWidth);
    const height = cellHeight * spec.rows;
    const [context, ratio] = sizedContext(canvas, left + width + right, top + height + bottom);
    paintCells(context, { ...spec, colours }, left, top, width, height, ratio);
    context.strokeStyle = css("--line");
    context.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
    const font = (size, family) => `${size}px ${family}`;
    const mono = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace";
    context.fillStyle = css("--soft");
    context.textBaseline = "middle";
    context.textAlign = "center";
    context.font = font(Math.min(13, Math.max(9, cellWidth * 1.1)), mono);
    for (const [i, text] of axisMarks(spec.symbols, spec.columns, cellWidth))
      context.fillText(text, left + (i + 0.5) * cellWidth, top + height + 10);
    context.font = font(Math.min(13, Math.max(9, cellHeight * 1.1)), mono);
    context.textAlign = "right";
    for (const [i, text] of spec.sideways ? axisMarks(spec.sideways.symbols, spec.rows, cellHeight) : [])
      context.fillText(text, left - 5, top + (i + 0.5) * cellHeight);
    context.font = font(12, Chart.defaults.font.family);
    paintLegend(context, colours, left + width, top + height + 33);
    context.textAlign = "left";
    context.fillText(spec.across, left, top + height + 33);
    context.save();
    context.translate(9, top + height / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText(spec.down, 0, 0);
    context.restore();
    area = { left, top, cellWidth, cellHeight, width };
  };
  canvas.addEventListener("mousemove", (event) => {
    if (!area) return;
    const c = Math.floor((event.offsetX - area.left) / area.cellWidth);
    const r = Math.floor((event.offsetY - area.top) / area.cellHeight);
    tip.hidden = r < 0 || c < 0 || r >= spec.rows || c >= spec.columns;
    if (tip.hidden) return;
    tip.textContent = spec.tip(r, c);
    const half = event.offsetX > area.left + area.width / 2;
    tip.style.left = half ? "" : `${event.offsetX + 14}px`;
    tip.style.right = half ? `${box.clientWidth - event.offsetX + 14}px` : "";
    tip.style.top = `${Math.max(0, event.offsetY - 34)}px`;
  });
  canvas.addEventListener("mouseleave", () => { tip.hidden = true; });
  charts.push({ canvas, title: spec.title, drawn: null, paint: () => {
    paint();
    let known = box.clientWidth;
    const watcher = new ResizeObserver(() => {
      if (printing || box.clientWidth === known) return;
      known = box.clientWidth;
      paint();
    });
    watcher.observe(box);
    return { destroy: () => watcher.disconnect() };
  } });
}

const thumb = 104;

// A heat map without words, which is pressed to be seen in full.
function thumbnail(host, name, spec, pressed, choose) {
  const button = element("button", "", { type: "button", "aria-pressed": String(pressed) });
  const canvas = element("canvas", "", { role: "img", "aria-label": name });
  button.append(canvas, element("span", name));
  button.addEventListener("click", () => choose(button));
  host.append(button);
  charts.push({ canvas, title: name, drawn: null, paint: () => {
    const [context, ratio] = sizedContext(canvas, thumb, thumb);
    paintCells(context, { ...spec, colours: spec.colours() }, 0, 0, thumb, thumb, ratio);
    return { destroy: () => {} };
  } });
}
