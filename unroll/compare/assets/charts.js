// --- Charts. Each has a place in the page and a function that makes its configuration, which is
// called again when the colours change.

let charts = [];
let printing = false;

function frame(host, title, note, wide) {
  const figure = element("figure", "", wide ? { class: "wide" } : {});
  const caption = element("figcaption", title);
  if (note) caption.append(element("small", note));
  figure.append(caption);
  (typeof host === "string" ? $(host) : host).append(figure);
  return figure;
}

// make() gives a configuration of Chart.js.
function place(host, title, note, make, wide = false) {
  const box = element("div", "", { class: "canvas" });
  const canvas = element("canvas", "", { role: "img", "aria-label": title });
  box.append(canvas);
  frame(host, title, note, wide).append(box);
  const paint = () => {
    const chart = new Chart(canvas, make());
    // Paper has its own width, which the window's says nothing about; style sheets fit it in.
    if (printing) chart.resize(wide ? 720 : 350, wide ? 290 : 250);
    return chart;
  };
  charts.push({ canvas, title, paint, drawn: null });
  return charts[charts.length - 1];
}

function erase(chart) {
  if (chart.drawn) chart.drawn.destroy();
  chart.drawn = null;
}

function draw(chart) {
  erase(chart);
  try {
    chart.drawn = chart.paint();
  } catch (error) {
    showError(`${chart.title}: ${error.message}`);
  }
}

// Empties a part of the page, its charts too.
function clear(host) {
  charts.filter((chart) => host.contains(chart.canvas)).forEach(erase);
  charts = charts.filter((chart) => !host.contains(chart.canvas));
  host.replaceChildren();
}

// What was put into the page later.
const drawNew = () => charts.filter((chart) => !chart.drawn).forEach(draw);

// Once all parts of the page are there: the file that it carries, and its charts.
function show(data) {
  $("#download").href =
      URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
  const drawAll = () => {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    Chart.defaults.font.size = 12;
    charts.forEach(draw);
  };
  drawAll();
  document.body.dataset.ready = String(charts.filter((chart) => chart.drawn).length);
  // Colours follow the system's; paper is always light.
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  const print = (on) => {
    printing = on;
    document.documentElement.classList.toggle("printing", on);
    drawAll();
  };
  window.addEventListener("beforeprint", () => print(true));
  window.addEventListener("afterprint", () => print(false));
}

// Places for marks of a logarithmic axis: powers of ten, and 2 and 5 between where it is short.
function decades(low, high) {
  const few = Math.log10(high / low);
  const all = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); ++e)
    for (const m of few < 1 ? [1, 2, 3, 5, 7] : few < 2.5 ? [1, 2, 5] : [1])
      if (m * 10 ** e >= low * 0.999 && m * 10 ** e <= high * 1.001) all.push(m * 10 ** e);
  const every = few < 2.5 ? 1 : Math.ceil(all.length / 9);
  return all.filter((x) => every === 1 || Math.round(Math.log10(x)) % every === 0);
}
// The same in powers of two, for bytes.
function doublings(low, high) {
  const first = Math.ceil(Math.log2(low)), last = Math.floor(Math.log2(high));
  const every = Math.max(1, Math.ceil((last - first) / 7));
  const all = [];
  for (let e = first; e <= last; ++e) if (e % every === 0) all.push(2 ** e);
  return all;
}

function axis(title, options = {}) {
  return {
    type: options.log ? "logarithmic" : "linear",
    title: { display: true, text: title, color: css("--soft") },
    grid: { color: css("--line"), drawBorder: false },
    border: { display: false },
    ticks: { color: css("--soft"), callback: options.tick || ((x) => number(x)),
             maxRotation: 0, autoSkipPadding: 12 },
    ...options.axis,
  };
}

// A logarithmic axis around the values, a factor of ten at the least: noise must not fill it.
function logAxis(title, values, { tick, ticks = decades, least, exact = false }) {
  const positive = values.filter((x) => finite(x) && x > 0);
  let low = positive.length ? Math.min(...positive) : 1;
  let high = positive.length ? Math.max(...positive) : 10;
  if (least) low = Math.max(low, least);
  high = Math.max(high, low);
  const pad = exact ? 1.12 : 1.35;
  low /= pad;
  high *= pad;
  const short = Math.sqrt(10 / (high / low));
  if (!exact && short > 1) {
    low /= short;
    high *= short;
  }
  return axis(title, {
    log: true,
    tick,
    axis: {
      min: low,
      max: high,
      afterBuildTicks: (scale) => {
        const chosen = typeof ticks === "function" ? ticks(low, high) : ticks;
        scale.ticks = chosen.map((value) => ({ value }));
      },
    },
  });
}

function line(name, points, options = {}) {
  const own = colour(name);
  return {
    label: label(name),
    group: name,
    data: points,
    borderColor: own,
    backgroundColor: own,
    borderWidth: 2,
    pointStyle: mark(name),
    pointRadius: points.length > 40 ? 0 : 3.5,
    pointHoverRadius: 6,
    pointHitRadius: 8,
    clip: 8,
    ...options,
  };
}

// A dashed horizontal line from end to end.
function level(text, value, from, to, borderDash = [6, 5]) {
  const own = css("--reference");
  return { label: text, group: text, data: [{ x: from, y: value }, { x: to, y: value }],
           borderColor: own, backgroundColor: own, borderWidth: 1.5, borderDash,
           pointStyle: "line", pointRadius: 0, pointHitRadius: 0, pointHoverRadius: 0, level: true };
}

function config(datasets, x, y, tooltip, interaction = "index") {
  return {
    type: "line",
    data: { datasets },
    options: {
      animation: false,
      parsing: false,
      responsive: !printing,
      maintainAspectRatio: false,
      interaction: { mode: interaction, intersect: false },
      scales: { x, y },
      plugins: {
        legend: {
          position: "bottom",
          labels: { color: css("--text"), usePointStyle: true, boxWidth: 8, boxHeight: 8, padding: 14,
                    filter: (item, data) => !data.datasets[item.datasetIndex].faint },
          // A model's other lines (each seed's, those before training) go with it.
          onClick: (_, item, legend) => {
            const all = legend.chart.data.datasets;
            const visible = legend.chart.isDatasetVisible(item.datasetIndex);
            all.forEach((set, i) => {
              if (set.group === all[item.datasetIndex].group)
                legend.chart.setDatasetVisibility(i, !visible);
            });
            legend.chart.update();
          },
        },
        tooltip: {
          usePointStyle: true,
          backgroundColor: css("--text"),
          titleColor: css("--page"),
          bodyColor: css("--page"),
          padding: 10,
          boxPadding: 4,
          filter: (item) => !item.dataset.level && !item.dataset.quiet,
          callbacks: tooltip,
        },
      },
    },
  };
}
