"use strict";
(() => {
  const results = JSON.parse(document.getElementById("results").textContent);
  const { task, machine, settings, models, probes } = results;
  const series = task.kind === "series";
  const unit = series ? "rows" : "tokens";

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
  const rate = (x) => `${count(x)} ${unit}/s`;
  const times = (x) => `${x >= 9.95 ? Math.round(x).toLocaleString("en-US") : x.toFixed(1)} times`;
  const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;

  function list(words) {
    if (words.length < 2) return words.join("");
    return `${words.slice(0, -1).join(", ")} and ${words[words.length - 1]}`;
  }

  const mean = (values) => values.reduce((sum, x) => sum + x, 0) / values.length;
  const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

  // --- Models: a name, a colour and a mark that are the same everywhere

  const known = { rnn: "RNN", lstm: "LSTM", gru: "GRU", transformer: "Transformer" };
  const marks = ["circle", "rect", "triangle", "rectRot", "star", "cross", "rectRounded", "crossRot"];
  const later = { mingru: "minGRU", minlstm: "minLSTM", mamba: "Mamba", rwkv: "RWKV-6" };
  const label = (name) =>
    known[name] || later[name] || (name === "linear" ? "Linear RNN" : name);
  const order = models.map((m) => m.name);
  const others = order.filter((name) => !known[name]);
  const variable = (name) =>
    known[name] ? `--${name}` : name === "linear" ? "--reference"
                                                  : `--other-${Math.max(0, others.indexOf(name)) % 4}`;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (name) => css(variable(name));
  const mark = (name) => {
    const i = Object.keys(known).indexOf(name);
    return marks[i >= 0 ? i : (4 + Math.max(0, others.indexOf(name))) % marks.length];
  };

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

  // --- Charts. Each has a place in the page and a function that makes its configuration, which is
  // called again when the colours change.

  const charts = [];
  let printing = false;

  function place(host, title, note, make, wide = false) {
    const figure = element("figure", "", wide ? { class: "wide" } : {});
    const caption = element("figcaption", title);
    if (note) caption.append(element("small", note));
    const box = element("div", "", { class: "canvas" });
    const canvas = element("canvas", "", { role: "img", "aria-label": title });
    box.append(canvas);
    figure.append(caption, box);
    $(host).append(figure);
    charts.push({ canvas, title, make, wide, drawn: null });
    return charts[charts.length - 1];
  }

  function draw(chart) {
    if (chart.drawn) chart.drawn.destroy();
    chart.drawn = null;
    try {
      chart.drawn = new Chart(chart.canvas, chart.make());
      // Paper has its own width, which the window's says nothing about; style sheets fit it in.
      if (printing) chart.drawn.resize(chart.wide ? 720 : 350, chart.wide ? 290 : 250);
    } catch (error) {
      showError(`${chart.title}: ${error.message}`);
    }
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

  // --- Header

  function settingLine() {
    const things = series ? "rows" : "characters";
    const each = settings.seconds > 0 ? `${seconds(settings.seconds)} of training`
                                      : plural(settings.steps, "step");
    const parts = [
      series
        ? `${task.source}: forecasting ${task.target || "the last column"} one row ahead` +
          (task.columns ? ` from ${plural(task.columns.length, "column")}` : "")
        : task.kind === "task" ? `${task.source}: ${task.summary} (${task.origin})`
        : task.source + (task.vocabulary ? `, ${task.vocabulary} different characters` : ""),
      finite(task.train_tokens)
        ? `${count(task.train_tokens)} ${things} to train on, ${count(task.validation_tokens)} held out`
        : "",
      `${plural(models.length, "model")} of about ${count(settings.parameters)} parameters`,
      `${each} ${models.length > 1 ? "each" : ""}`.trim() +
        (settings.batch ? `, batches of ${settings.batch} × ${settings.context} ${unit}` : "") +
        (settings.seeds > 1 ? `, ${settings.seeds} seeds` : ""),
      finite(settings.learning_rate) ? `learning rate ${number(settings.learning_rate)}` : "",
      settings.quick ? "quick comparison" : "",
      machine.processor,
      finite(machine.threads)
        ? plural(machine.threads, "thread") +
          (finite(machine.cores) ? ` on ${plural(machine.cores, "core")}` : "")
        : "",
      finite(machine.memory_bytes) ? `${bytes(machine.memory_bytes)} of memory` : "",
      machine.built_for ? `built for ${machine.built_for}` : "",
      machine.compiler ? `compiler ${machine.compiler}` : "",
    ];
    return parts.filter((part) => part).join(" · ");
  }

  const trainingSeconds = (model) => mean(model.runs.map((run) => run.seconds));
  const bestLosses = (model) => model.runs.map((run) => run.best_loss).filter(finite);

  // What the losses say, and no more: with one run a difference may be chance.
  function lossSentences() {
    const ranked = models.filter((m) => finite(m.best_loss)).sort((a, b) => a.best_loss - b.best_loss);
    if (ranked.length === 0) return ["No run gave a finite validation loss."];
    const [first, second] = ranked;
    const text = [];
    const name = label(first.name);
    const against = `knowing nothing costs ${lossText(task.uniform_loss)}`;
    const value = `${lossText(first.best_loss)} ${task.metric}`;
    if (!second) {
      text.push(`The ${name} reaches a validation loss of ${value}; ${against}.`);
    } else if (lossText(first.best_loss) === lossText(second.best_loss)) {
      text.push(`${name} and ${label(second.name)} reach the lowest validation loss alike, ${value}; ` +
                `${against}.`);
    } else {
      const overlap = first.runs.length > 1 &&
                      Math.max(...bestLosses(first)) >= Math.min(...bestLosses(second));
      text.push(`The ${name} reaches the lowest validation loss, ${value}, ahead of the ` +
                `${label(second.name)}’s ${lossText(second.best_loss)}` +
                (overlap ? " (their seeds overlap)" : "") + `; ${against}.`);
    }
    if (first.best_loss >= task.uniform_loss)
      text.push(ranked.length > 1 ? "So far none of them has learned anything that holds on new data."
                                  : "So far it has learned nothing that holds on new data.");
    if (finite(task.persistence_loss)) {
      const better = ranked.filter((m) => m.best_loss < task.persistence_loss).map((m) => label(m.name));
      text.push(`Repeating the last value costs ${lossText(task.persistence_loss)}, which ` +
                (better.length === 0 ? "no model beats."
                  : better.length === models.length && models.length > 1 ? "every model beats."
                  : `${list(better)} ${better.length > 1 ? "beat" : "beats"}.`));
    }
    const lost = models.filter((m) => !finite(m.best_loss)).map((m) => label(m.name));
    if (lost.length) text.push(`${list(lost)} gave no finite loss.`);
    return text;
  }

  function speedSentences() {
    const ranked = models.filter((m) => finite(m.tokens_per_second))
                       .sort((a, b) => b.tokens_per_second - a.tokens_per_second);
    if (ranked.length < 2)
      return ranked.map((m) => `It trains on ${rate(m.tokens_per_second)}.`);
    const fast = ranked[0], slow = ranked[ranked.length - 1];
    return [`The ${label(fast.name)} trains fastest, on ${rate(fast.tokens_per_second)}, ` +
            `${times(fast.tokens_per_second / slow.tokens_per_second)} the ${label(slow.name)}’s ` +
            `${rate(slow.tokens_per_second)}.`];
  }

  // The first and last position of each model that was streamed.
  function streamed() {
    return order.map((name) => {
      const points = probes.streaming.points.filter((p) => p.model === name)
                         .sort((a, b) => a.position - b.position);
      return { name, points, first: points[0], last: points[points.length - 1] };
    }).filter((m) => m.points.length > 1);
  }

  function streamSentences() {
    const all = streamed();
    if (all.length === 0) return [];
    const fixed = all.filter((m) => m.points.every((p) => p.state_bytes === m.first.state_bytes));
    const growing = all.filter((m) => m.last.state_bytes > m.first.state_bytes);
    const text = [];
    if (fixed.length)
      text.push(`From position ${number(fixed[0].first.position)} to ` +
                `${number(fixed[0].last.position)} the state of ${list(fixed.map((m) => label(m.name)))} ` +
                `keeps its size (${list(fixed.map((m) => bytes(m.first.state_bytes)))}), and a step ` +
                `takes ${list(fixed.map((m) =>
                  (m.last.microseconds / m.first.microseconds).toFixed(2)))} ` +
                `times as long at the end as at the start.`);
    for (const m of growing)
      text.push(`The ${label(m.name)}’s state grows from ${bytes(m.first.state_bytes)} to ` +
                `${bytes(m.last.state_bytes)}, and its step from ${seconds(m.first.microseconds / 1e6)} ` +
                `to ${seconds(m.last.microseconds / 1e6)}.`);
    return text;
  }

  // One clause for the top: whose step takes the same time wherever it is, as far as measured.
  function constantTime() {
    const all = streamed();
    const flat = (m) => m.points.every((p) => p.state_bytes === m.first.state_bytes) &&
                        m.last.microseconds < 1.25 * m.first.microseconds;
    const even = all.filter(flat), rest = all.filter((m) => !flat(m));
    if (even.length === 0) return [];
    const names = list(even.map((m) => label(m.name)));
    return [`${names} ${even.length > 1 ? "stream" : "streams"} in constant time and memory` +
            (rest.length
              ? `; one more step of the ${list(rest.map((m) => label(m.name)))} takes ` +
                `${list(rest.map((m) => times(m.last.microseconds / m.first.microseconds)))} as long at ` +
                `position ${number(rest[0].last.position)} as at ${number(rest[0].first.position)}.`
              : ".")];
  }

  function header() {
    const what = models.length > 1 ? "Sequence models compared" : label(models[0].name);
    $("#title").textContent = document.title = `${what} on ${task.source}`;
    $("#setting").textContent = settingLine();
    const once = settings.seeds > 1 || models.length < 2 ? []
      : ["Each was trained once, so that small differences may be chance."];
    $("#summary").textContent =
        [...lossSentences(), ...speedSentences(), ...constantTime(), ...once].join(" ");
  }

  // --- Training

  function modelTable() {
    const table = $("#models"), body = element("tbody");
    const uneven = settings.seconds > 0 || new Set(models.map((m) => m.runs[0].steps)).size > 1;
    table.append(headRow(["Model", "Parameters", ["Best validation loss", task.metric],
                          ...(uneven ? ["Steps"] : []), capital(`${unit}/s`), "Training time",
                          "Peak training memory"]));
    const best = (value, sign) => {
      const all = models.map(value).filter(finite);
      return models.length > 1 && all.length ? sign * Math.min(...all.map((x) => sign * x)) : NaN;
    };
    const lowestLoss = best((m) => m.best_loss, 1), fastest = best((m) => m.tokens_per_second, -1);
    const smallest = best((m) => m.peak_training_bytes, 1);
    for (const m of models) {
      const row = element("tr");
      const cell = (text, mark, small) => {
        row.append(withSmall("td", [text, small], mark ? { class: "best" } : {}));
      };
      row.append(nameCell(m.name));
      cell(m.parameters.toLocaleString("en-US"), false,
           finite(m.layers) && finite(m.hidden) ? `${plural(m.layers, "layer")} of ${m.hidden}` : "");
      const losses = bestLosses(m);
      cell(lossText(m.best_loss), m.best_loss === lowestLoss,
           losses.length > 1 ? `${lossText(Math.min(...losses))} to ${lossText(Math.max(...losses))}` : "");
      if (uneven) cell(number(mean(m.runs.map((run) => run.steps)), 4));
      cell(rate(m.tokens_per_second), m.tokens_per_second === fastest);
      cell(seconds(trainingSeconds(m)), false, m.runs.length > 1 ? "a seed" : "");
      cell(bytes(m.peak_training_bytes), m.peak_training_bytes === smallest);
      body.append(row);
    }
    table.append(body);
  }

  // The mean of the seeds, at the steps that all of them have.
  function meanCurve(runs, key) {
    if (runs.length === 1)
      return runs[0].curve.map((p) => ({ x: p[key], y: p.validation_loss, point: p }));
    const rows = runs[0].curve.map((p) => runs.map((run) => run.curve.find((q) => q.step === p.step)));
    return rows.filter((row) => row.every((p) => p)).map((row) => {
      const all = (field) =>
        row.every((p) => finite(p[field])) ? mean(row.map((p) => p[field])) : null;
      return { x: all(key), y: all("validation_loss"),
               point: { step: row[0].step, tokens: all("tokens"), seconds: all("seconds"),
                        train_loss: all("train_loss") } };
    });
  }

  function lossChart() {
    const axes = {
      step: { name: "Steps", title: "training steps", tick: (x) => count(x) },
      tokens: { name: capital(unit), title: `${unit} trained on`, tick: (x) => count(x) },
      seconds: { name: "Seconds", title: "seconds of training", tick: (x) => number(x) },
    };
    let key = "step";
    const make = () => {
      const points = models.flatMap((m) => m.runs.flatMap((run) => run.curve));
      const last = Math.max(...points.map((p) => p[key]), 0);
      const levels = [["Knowing nothing",
                       task.uniform_loss]];
      if (finite(task.persistence_loss)) levels.push(["Repeating the last value", task.persistence_loss]);
      const datasets = [];
      for (const m of models) {
        datasets.push(line(m.name, meanCurve(m.runs, key)));
        if (m.runs.length > 1)
          for (const run of m.runs)
            datasets.push(line(m.name, run.curve.map((p) => ({ x: p[key], y: p.validation_loss })),
                               { borderColor: colour(m.name) + "88", borderWidth: 1, pointRadius: 0,
                                 pointHitRadius: 0, pointHoverRadius: 0, faint: true, quiet: true }));
      }
      levels.forEach(([text, value], i) =>
        datasets.push(level(`${text}, ${lossText(value)}`, value, 0, last, i ? [2, 4] : [6, 5])));
      const losses = [...points.map((p) => p.validation_loss), ...levels.map((one) => one[1])]
                         .filter((y) => finite(y) && y > 0);
      const title = "validation loss";
      const wide = losses.length && Math.max(...losses) > 20 * Math.min(...losses);
      const y = wide ? logAxis(title, losses, { tick: (v) => number(v) })
                     : axis(title, { axis: { grace: "4%" } });
      return config(datasets, axis(axes[key].title, { tick: axes[key].tick, axis: { min: 0, max: last } }),
        y, {
          title: () => "",
          label: (item) => {
            const p = item.raw.point;
            return [`${item.dataset.label}: validation ${lossText(item.raw.y)}, ` +
                      `training ${lossText(p.train_loss)}`,
                    `step ${number(p.step)}, ${count(p.tokens)} ${unit}, ${seconds(p.seconds)}`];
          },
        }, "nearest");
    };
    const many = models.some((m) => m.runs.length > 1);
    const chart = place("#loss", "Validation loss",
                        task.metric + (many ? "; thick: mean of the seeds, thin: each seed" : ""),
                        make, true);
    for (const [one, { name }] of Object.entries(axes)) {
      const button = element("button", `By ${name.toLowerCase()}`,
                             { type: "button", "aria-pressed": String(one === key) });
      button.addEventListener("click", () => {
        key = one;
        for (const other of button.parentNode.children)
          other.setAttribute("aria-pressed", String(other === button));
        draw(chart);
      });
      $("#axis").append(button);
    }
  }

  // --- Gradient flow

  function flowSection() {
    const probe = probes.gradient_flow;
    const curves = probe.curves.map((curve) => {
      // Where nothing can be at k = 0, the latest step that has a gradient stands in for it.
      const start = curve.norms.findIndex((x) => finite(x) && x > 0);
      const base = start < 0 ? NaN : curve.norms[start];
      const power = /([\d.]+)\^k/.exec(curve.when);
      return { ...curve, start, radius: power ? Number(power[1]) : NaN,
               values: curve.norms.map((x) => (finite(x) && x > 0 ? x / base : null)) };
    });
    if (curves.length === 0) return false;
    const lowest = 1e-12;
    const shown = (curve) => ({ initial: "before training", trained: "after training" }[curve.when] ||
                              "measured");
    const make = () => {
      const datasets = [];
      for (const curve of curves) {
        const points = curve.values.map((y, k) => ({ x: k, y }));
        if (curve.model === "linear") {
          const text = finite(curve.radius) ? `Linear RNN: ${curve.radius}ᵏ ` : "Linear RNN ";
          datasets.push(line("linear", points, { label: `${text}measured`, tip: "Linear RNN, measured",
            borderWidth: 5, borderColor: colour("linear") + "66", pointStyle: "line", pointRadius: 0 }));
          if (finite(curve.radius))
            datasets.push(line("linear",
              points.map((p) => ({ x: p.x, y: curve.radius ** (p.x - Math.max(0, curve.start)) })),
              { label: `${text}in theory`, tip: "Linear RNN, in theory", group: "theory",
                borderWidth: 1.25, borderDash: [2, 3], pointStyle: "line", pointRadius: 0 }));
          continue;
        }
        const before = curve.when === "initial";
        const alone = !curves.some((c) => c.model === curve.model && c !== curve);
        datasets.push(line(curve.model, points, {
          tip: `${label(curve.model)}, ${shown(curve)}`,
          clip: { left: 8, right: 8, top: 8, bottom: 0 },
          borderDash: before ? [6, 4] : [], borderWidth: before ? 1.5 : 2.25,
          pointRadius: (c) => (c.dataIndex % 10 === (before ? 5 : 0) ? 3.5 : 0),
          faint: before && !alone }));
      }
      const values = datasets.flatMap((set) => set.data.map((p) => p.y));
      return config(datasets,
        axis("k, steps before the last", { axis: { min: 0,
          max: Math.max(1, ...curves.map((c) => c.norms.length - 1)) } }),
        logAxis("relative gradient norm", values, {
          least: lowest, tick: (y) => (y === 1 ? "1" : `10${superscript(Math.round(Math.log10(y)))}`) }),
        { title: (items) => (items.length ? `k = ${items[0].parsed.x}` : ""),
          label: (item) => `${item.dataset.tip}: ${number(item.raw.y)}` });
    };
    place("#flow .charts", "Gradient of the last step’s loss by the state k steps earlier",
          "dashed: before training; solid: after; click a name to hide it", make, true);

    const ks = [1, 5, 10, 20, 50, 90].filter((k) => curves.some((c) => k < c.values.length));
    const at = (curve, k) => (finite(curve.values[k]) ? curve.values[k] : null);
    const k = [20, 10, 5, 1].find((one) => ks.includes(one));
    const trained = curves.filter((c) => c.when === "trained" && at(c, k) !== null);
    const parts = [];
    if (trained.length)
      parts.push(`After training, ${number(at(trained[0], k))} of the gradient is left ` +
                 `${plural(k, "step")} back in the ${label(trained[0].model)}` +
                 trained.slice(1).map((c) => `, ${number(at(c, k))} in the ${label(c.model)}`).join("") +
                 ".");
    const linear = curves.find((c) => finite(c.radius));
    if (linear && linear.values.some(finite)) {
      const off = Math.max(...linear.values.map((y, i) =>
        finite(y) ? Math.abs(y / linear.radius ** (i - linear.start) - 1) : 0));
      parts.push(`A linear RNN whose weights shrink every vector to ${linear.radius} of its length must ` +
                 `follow ${linear.radius}ᵏ: what is measured is off by ${number(off * 100, 2)} % at the ` +
                 `most, which tests the measurement itself.`);
    }
    const late = curves.filter((c) => c.start > 0);
    const once = (all) => list([...new Set(all)]);
    if (late.length)
      parts.push(`There is no gradient at k = 0 for ${once(late.map((c) => label(c.model)))}: ` +
                 `these curves are relative to k = ${once(late.map((c) => c.start))}.`);
    $("#flow .reading").textContent = parts.join(" ");
    numbers("#flow", ["Model", ...ks.map((one) => `k = ${one}`)],
            curves.map((c) => ({ name: c.model, text: `${label(c.model)}, ${shown(c)}`,
                                 cells: ks.map((one) => number(at(c, one))) })));
    return true;
  }

  // --- Scaling

  function byModel(points) {
    return order.map((name) => [name, points.filter((p) => p.model === name)])
        .filter(([, own]) => own.length > 0);
  }

  function scalingSection() {
    const all = probes.scaling.models.filter((m) => m.points.length > 0);
    if (all.length === 0) return false;
    const lengths = [...new Set(all.flatMap((m) => m.points.map((p) => p.length)))].sort((a, b) => a - b);
    const chart = (title, note, key, exponent, show, ticks) =>
      place("#scaling .charts", title, note, () => config(
        all.map((m) => line(m.model, m.points.map((p) => ({ x: p.length, y: p[key] })),
          { label: `${label(m.model)}: T^${finite(m[exponent]) ? m[exponent].toFixed(2) : "?"}` })),
        logAxis(`T, length of the sequence (${unit})`, lengths,
                { ticks: lengths, tick: (x) => number(x), exact: true }),
        logAxis(key === "seconds" ? "time of a training step" : "peak memory",
                all.flatMap((m) => m.points.map((p) => p[key])), { tick: show, ticks }),
        { title: (items) => (items.length ? `T = ${number(items[0].parsed.x)}` : ""),
          label: (item) => `${label(item.dataset.group)}: ${show(item.parsed.y)}` }));
    const note = `batch ${number(probes.scaling.batch)}; exponents fitted to the longer half`;
    chart("Time of a training step", note, "seconds", "time_exponent", seconds);
    chart("Peak memory of a training step", note, "bytes", "memory_exponent", bytes, doublings);

    const longest = lengths[lengths.length - 1];
    const ends = all.map((m) => ({ name: m.model, p: m.points.find((p) => p.length === longest) }))
                     .filter((m) => m.p);
    if (ends.length)
      $("#scaling .reading").textContent = `At a length of ${number(longest)} a training step takes ` +
        ends.map((m) => `${seconds(m.p.seconds)} and ${bytes(m.p.bytes)} (${label(m.name)})`)
            .join(", ") + ".";
    numbers("#scaling", ["Model", ...lengths.map((n) => `T = ${number(n)}`), "time", "memory"],
            all.map((m) => ({ name: m.model, text: label(m.model), cells: [
              ...lengths.map((n) => {
                const p = m.points.find((one) => one.length === n);
                return p ? [seconds(p.seconds), bytes(p.bytes)] : "–";
              }),
              `T^${number(m.time_exponent)}`, `T^${number(m.memory_exponent)}`] })));
    return true;
  }

  // --- Streaming

  function streamingSection() {
    const points = probes.streaming.points;
    const all = byModel(points);
    if (all.length === 0) return false;
    const positions = [...new Set(points.map((p) => p.position))].sort((a, b) => a - b);
    const chart = (title, key, name, show, ticks) =>
      place("#streaming .charts", title, "", () => config(
        all.map(([model, own]) => line(model, own.map((p) => ({ x: p.position, y: p[key] })))),
        logAxis(`position (${unit} so far)`, positions,
                { ticks: positions, tick: (x) => number(x), exact: true }),
        logAxis(name, points.map((p) => p[key]), { tick: show, ticks }),
        { title: (items) => (items.length ? `position ${number(items[0].parsed.x)}` : ""),
          label: (item) => `${item.dataset.label}: ${show(item.parsed.y)}` }));
    chart("Time of one more step", "microseconds", "time", (x) => seconds(x / 1e6));
    chart("State that is kept", "state_bytes", "size of the state", bytes, doublings);
    $("#streaming .reading").textContent = streamSentences().join(" ");
    numbers("#streaming", ["Model", ...positions.map((p) => `position ${number(p)}`)],
            all.map(([model, own]) => ({ name: model, text: label(model), cells: positions.map((at) => {
              const p = own.find((one) => one.position === at);
              return p ? [seconds(p.microseconds / 1e6), bytes(p.state_bytes)] : "–";
            }) })));
    return true;
  }

  // --- The adding problem

  function addingSection() {
    const { points, baseline } = probes.adding;
    const all = byModel(points);
    if (all.length === 0) return false;
    const lengths = [...new Set(points.map((p) => p.length))].sort((a, b) => a - b);
    const error = "mean squared error";
    const always = `Always answering 1: ${number(baseline)}`;
    const tick = (y) => number(y);
    const ends = (values) => [Math.min(...values), Math.max(...values)];
    place("#adding .charts", "Error after training, by length", "on fresh sequences", () => {
      const [from, to] = ends(lengths);
      const pad = 0.06 * (to - from) || 1;
      return config(
        [...all.map(([model, own]) => line(model, own.map((p) => ({ x: p.length, y: p.mse })))),
         level(always, baseline, from - pad, to + pad)],
        axis("T, length of the sequence (steps)", { axis: { min: from - pad, max: to + pad,
          afterBuildTicks: (scale) => { scale.ticks = lengths.map((value) => ({ value })); } } }),
        logAxis(error, [baseline, ...points.map((p) => p.mse)], { tick }),
        { title: (items) => (items.length ? `T = ${number(items[0].parsed.x)}` : ""),
          label: (item) => `${item.dataset.label}: ${number(item.raw.y)}` });
    });
    for (const length of lengths) {
      const own = points.filter((p) => p.length === length && p.curve && p.curve.length > 0);
      if (own.length === 0) continue;
      place("#adding .charts", `Training at length ${number(length)}`, "mean since the mark before", () => {
        const last = Math.max(...own.flatMap((p) => p.curve.map((c) => c.step)));
        return config(
          [...own.map((p) => line(p.model, p.curve.map((c) => ({ x: c.step, y: c.mse })))),
           level(always, baseline, 0, last)],
          axis("training steps", { tick: (x) => count(x), axis: { min: 0, max: last } }),
          logAxis(error, [baseline, ...points.flatMap((p) => (p.curve || []).map((c) => c.mse))], { tick }),
          { title: (items) => (items.length ? `step ${number(items[0].parsed.x)}` : ""),
            label: (item) => `${item.dataset.label}: ${number(item.raw.y)}` });
      });
    }
    // Half the baseline's error: well beyond what chance or the sum's mean can give.
    const solved = (p) => finite(p.mse) && p.mse < baseline / 2;
    $("#adding .reading").textContent = lengths.map((length) => {
      const tried = points.filter((p) => p.length === length);
      const names = tried.filter(solved).map((p) => label(p.model));
      return `At length ${number(length)} ` +
             (names.length === 0 ? (tried.length > 1 ? "no model" : `the ${label(tried[0].model)} does not`)
                                 : names.length === tried.length && names.length > 1 ? "every model"
                                                                                     : list(names)) +
             (names.length === 0 && tried.length === 1 ? " come below half of it."
               : names.length > 1 && names.length < tried.length ? " come below half of it."
                                                                 : " comes below half of it.");
    }).join(" ").replace("half of it", "half of the dashed line");
    numbers("#adding", ["Model", ...lengths.map((n) => `T = ${number(n)}`)],
            all.map(([model, own]) => ({ name: model, text: label(model), cells: lengths.map((n) => {
              const p = own.find((one) => one.length === n);
              return p ? number(p.mse) : "–";
            }) })));
    return true;
  }

/*{{report_tasks.js}}*/
  // --- All of it

  function drawAll() {
    Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
    Chart.defaults.font.size = 12;
    charts.forEach(draw);
  }

  function section(id, build) {
    try {
      if (build() === false) $(id).hidden = true;
    } catch (error) {
      showError(`${id.slice(1)}: ${error.message}`);
    }
  }

  section("header", header);
  section("#training", modelTable);
  section("#loss", lossChart);
  section("#flow", flowSection);
  section("#scaling", scalingSection);
  section("#streaming", streamingSection);
  section("#adding", addingSection);
  section("#lengths", lengthsSection);
  section("#truncation", truncationSection);

  $("#download").href =
      URL.createObjectURL(new Blob([JSON.stringify(results, null, 1)], { type: "application/json" }));

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
})();
