// What all pages share: numbers for people, models' names and colours, pieces of a page. The scripts
// of a page's own make `order`, the names of its models, of `data`.

// --- Numbers for people

const finite = (x) => typeof x === "number" && Number.isFinite(x);
const superscript = (n) =>
  String(n).replace(/[-\d]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));

// 0.1667, 1.72, 12.3, 4,100; 1.2e-5 where zeros would have to be counted.
function number(x, digits = 3) {
  if (!finite(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size < 1e-3 || size >= 1e7) return x.toExponential(1).replace("e+", "e");
  if (size >= 1000) return Math.round(x).toLocaleString("en-US");
  return String(Number(x.toPrecision(digits)));
}

// Losses are compared by their last digits: a column of them has as many places.
const lossText = (x) => (!finite(x) ? "–" : Math.abs(x) < 0.1 ? number(x) : x.toFixed(3));

function scaled(x, steps, digits = 3) {
  if (!finite(x)) return "–";
  let i = 0;
  const shown = (k) => Number((x / steps[k][0]).toPrecision(digits));
  // By the rounded value too: 999.7 is 1 k.
  const beyond = (k) => Math.max(Math.abs(x), Math.abs(shown(k)) * steps[k][0]) >= steps[k + 1][0];
  while (i + 1 < steps.length && beyond(i)) ++i;
  const value = shown(i);
  return `${value >= 1000 ? value.toLocaleString("en-US") : value} ${steps[i][1]}`.trim();
}
const count = (x, digits = 3) => scaled(x, [[1, ""], [1e3, "k"], [1e6, "M"], [1e9, "G"]], digits);
const bytes = (x) =>
  scaled(x, [[1, "B"], [2 ** 10, "KiB"], [2 ** 20, "MiB"], [2 ** 30, "GiB"], [2 ** 40, "TiB"]]);
const seconds = (x) =>
  scaled(x, [[1e-9, "ns"], [1e-6, "µs"], [1e-3, "ms"], [1, "s"], [60, "min"], [3600, "h"]]);
const times = (x) => `${x >= 9.95 ? Math.round(x).toLocaleString("en-US") : x.toFixed(1)} times`;
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

function list(words) {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
}

const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// 10⁻⁵
const power = (y) => (y === 1 ? "1" : `10${superscript(Math.round(Math.log10(y)))}`);

// --- Models: a name, a colour and a mark that are the same everywhere

const known = { rnn: "RNN", lstm: "LSTM", gru: "GRU", transformer: "Transformer" };
const marks = ["circle", "rect", "triangle", "rectRot", "star", "cross", "rectRounded", "crossRot"];
const later = { mingru: "minGRU", minlstm: "minLSTM", mamba: "Mamba", rwkv: "RWKV-6" };
const label = (name) =>
  known[name] || later[name] || (name === "linear" ? "Linear RNN" : name);
// Which of the models without a colour of its own.
const other = (name) => Math.max(0, order.filter((one) => !known[one]).indexOf(name));
const variable = (name) =>
  known[name] ? `--${name}` : name === "linear" ? "--reference"
                                                : `--other-${other(name) % 4}`;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const colour = (name) => css(variable(name));
const mark = (name) => {
  const i = Object.keys(known).indexOf(name);
  return marks[i >= 0 ? i : (4 + other(name)) % marks.length];
};

// The points of each model, in the models' order.
function byModel(points) {
  return order.map((name) => [name, points.filter((p) => p.model === name)])
      .filter(([, own]) => own.length > 0);
}

// --- Pieces of the page

const $ = (selector) => document.querySelector(selector);

function element(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  if (text !== "") node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function nameCell(name, text = label(name)) {
  const cell = element("th", "", { scope: "row" });
  const swatch = element("span", "", { class: "swatch" });
  swatch.style.setProperty("--swatch", `var(${variable(name)})`);
  cell.append(swatch, text);
  return cell;
}

// A cell with a text, or with a pair of a text and a smaller one below it.
function withSmall(tag, content, attributes = {}) {
  const [text, small] = [content].flat();
  const cell = element(tag, text, attributes);
  if (small) cell.append(element("small", small));
  return cell;
}

function headRow(columns) {
  const head = element("thead"), row = element("tr");
  for (const column of columns) row.append(withSmall("th", column, { scope: "col" }));
  head.append(row);
  return head;
}

// The numbers behind a section's charts, folded: rows of {name, text, cells}.
function numbers(section, columns, rows) {
  const details = element("details"), scroll = element("div", "", { class: "scroll" });
  const table = element("table"), body = element("tbody");
  for (const { name, text, cells } of rows) {
    const row = element("tr");
    row.append(nameCell(name, text));
    for (const cell of cells) row.append(withSmall("td", cell));
    body.append(row);
  }
  table.append(headRow(columns), body);
  scroll.append(table);
  details.append(element("summary", "The numbers"), scroll);
  $(section).append(details);
}

// Buttons, one of which is pressed: [[value, text], ...].
function choice(host, options, chosen, choose) {
  for (const [value, text] of options) {
    const button = element("button", text, { type: "button", "aria-pressed": String(value === chosen) });
    button.addEventListener("click", () => {
      for (const other of host.children) other.setAttribute("aria-pressed", String(other === button));
      choose(value);
    });
    host.append(button);
  }
}

// A part of the page, hidden where build() has nothing for it.
function section(id, build) {
  try {
    if (build() === false) $(id).hidden = true;
  } catch (error) {
    showError(`${id.replace("#", "")}: ${error.message}`);
  }
}
