// --- Looking inside a model: pictures of what inside.json holds

const stepsOf = (inside) => inside.gradient_flow[0].last.length;
// "step 12 ‘e’", from 0.
const stepName = (inside, t) =>
  `step ${number(t + 1)}${inside.text && inside.text[t] ? ` ‘${visible(inside.text[t])}’` : ""}`;
const readFrom = (inside) => (inside.text ? "steps, by the symbol that is read" : "steps");
const lossUnit = (inside) =>
  inside.model.vocabulary > 0 ? "nats per character" : "mean squared error, standardised";

// Layers from the first to the last, from light to dark; what enters the first is grey.
function layerLine(l, layers, points, options = {}) {
  const own = l === 0 ? css("--reference")
                      : mixed(css("--layer-first"), css("--layer-last"),
                              layers > 1 ? (l - 1) / (layers - 1) : 1);
  const name = l === 0 ? "Input" : `Layer ${l}`;
  return line("", points, { label: name, group: name, borderColor: own, backgroundColor: own,
                            pointStyle: "circle", ...options });
}
const byLabel = (show) => (item) => `${item.dataset.tip || item.dataset.label}: ${show(item.raw.y)}`;

function flowPicture(host, inside) {
  const layers = inside.gradient_flow, steps = stepsOf(inside);
  const points = (norms) => norms.map((y, t) => ({ x: t + 1, y: y > 0 ? y : null }));
  place(host, "Gradient flow by layer",
        "How much the loss changes with what a layer gives at each step. Solid: the loss of the last " +
        "step alone; where its curve falls towards the left, that layer learns little from so far " +
        "back. Dashed: the mean loss of all steps.", () => {
    const datasets = layers.flatMap((layer) => [["last", []], ["mean", [5, 4]]].map(([loss, dash]) => {
      const name = layer.layer === 0 ? "Input" : `Layer ${layer.layer}`;
      return layerLine(layer.layer, layers.length - 1, points(layer[loss]), {
        tip: `${name}, ${loss === "last" ? "last step’s loss" : "mean loss"}`, borderDash: dash,
        borderWidth: loss === "last" ? 2.25 : 1.25, faint: loss === "mean",
        // The last step is all that the topmost layer of a Transformer has.
        pointRadius: (c) => (loss === "last" && c.dataIndex === steps - 1 ? 3.5 : 0) });
    }));
    return config(datasets, axis("step of the sequence", { axis: { min: 1, max: steps } }),
      logAxis("|d loss / d h|", datasets.flatMap((set) => set.data.map((p) => p.y)),
              { least: 1e-12, tick: power }),
      { title: (items) => (items.length ? stepName(inside, items[0].parsed.x - 1) : ""),
        label: byLabel((y) => number(y)) });
  }, true);
}

// Finite horizons in order, at their shares of all units.
function sortedHorizons(horizons) {
  const all = horizons.map((h) => (finite(h) ? h : Infinity)).sort((a, b) => a - b);
  return all.map((y, i) => ({ x: (100 * (i + 0.5)) / all.length, y: finite(y) && y > 0 ? y : null }));
}
function horizonConfig(datasets) {
  return config(datasets.map((set) => ({ ...set, pointRadius: 0 })),
    axis("units in order (%)", { axis: { min: 0, max: 100 } }),
    logAxis("memory horizon (steps)", datasets.flatMap((set) => set.data.map((p) => p.y)),
            { tick: (y) => number(y) }),
    { title: (items) => (items.length ? `${number(items[0].parsed.x)} % of the units` : ""),
      label: byLabel((y) => plural(y, "step")) }, "nearest");
}
const horizonNote = "After so many steps 1/e of what a unit keeps is left. The higher and the longer " +
                    "the right end of a curve, the more units carry something far.";

function horizonPicture(host, inside, wide = true) {
  const layers = (inside.gates || []).filter((layer) => layer.horizon && layer.horizon.length > 0);
  if (layers.length === 0) return;
  place(host, "Memory horizon of each unit", horizonNote, () => horizonConfig(inside.gates.flatMap(
    (layer, l) => (layer.horizon ? [layerLine(l + 1, inside.gates.length, sortedHorizons(layer.horizon))]
                                 : []))), wide);
}

function histogramPictures(host, inside) {
  for (const name of gateNames(inside)) {
    const of = (layer) => layer.gates.find((gate) => gate.name === name);
    const all = inside.gates.map(of).filter((gate) => gate && gate.histogram.length > 0);
    if (all.length === 0) continue;
    place(host, `Values of ${name}`, all[0].keeps
      ? "How often each value occurs over units and steps: at 1 the old state stays, at 0 it is forgotten."
      : "How often each value occurs over units and steps.", () => {
      const datasets = inside.gates.flatMap((layer, l) => {
        const gate = of(layer);
        if (!gate) return [];
        const bins = gate.histogram.length, width = (gate.high - gate.low) / bins;
        return [layerLine(l + 1, inside.gates.length,
                          gate.histogram.map((y, i) => ({ x: gate.low + (i + 0.5) * width,
                                                          y: finite(y) ? 100 * y : null })),
                          { stepped: "middle", pointRadius: 0 })];
      });
      return config(datasets, axis(`value of ${name}`, { axis: {
          min: Math.min(...all.map((gate) => gate.low)), max: Math.max(...all.map((gate) => gate.high)) } }),
        axis("share of values (%)", { axis: { min: 0 } }),
        { title: (items) => (items.length ? `around ${number(items[0].parsed.x)}` : ""),
          label: byLabel((y) => `${number(y)} %`) });
    });
  }
}

const gateNames = (inside) =>
  [...new Set((inside.gates || []).flatMap((layer) => layer.gates.map((gate) => gate.name)))];

function gateMaps(host, inside, name) {
  inside.gates.forEach((layer, l) => {
    const gate = layer.gates.find((one) => one.name === name);
    if (!gate || layer.units.length === 0) return;
    const horizon = (k) => {
      const own = layer.horizon ? layer.horizon[layer.units[k]] : 0;
      return finite(own) ? own : Infinity;
    };
    const rows = layer.units.map((_, k) => k).sort((a, b) => horizon(b) - horizon(a) || a - b);
    const units = layer.horizon ? layer.horizon.length : 0;
    heatmap(host, {
      title: `${name} of layer ${l + 1}`,
      note: `${units > rows.length ? `${number(rows.length)} of ${number(units)} units` : "Units"}, ` +
            (layer.horizon ? "those that remember the longest at the top. " : "in their order. ") +
            (gate.keeps ? "A row near 1 is a unit that keeps what it has, a column near 0 a symbol at " +
                          "which units forget." : "Each column shows the values at the symbol below it."),
      wide: true, rows: rows.length, columns: gate.values.length, symbols: inside.text,
      value: (r, c) => gate.values[c][rows[r]],
      colours: () => heatScale(gate),
      cell: () => Math.min(14, Math.max(2, 300 / rows.length)),
      across: readFrom(inside), down: "units",
      tip: (r, c) => `unit ${number(layer.units[rows[r]] + 1)}` +
        (layer.horizon ? `, horizon ${finite(horizon(rows[r])) ? number(horizon(rows[r])) : "∞"}` : "") +
        `, ${stepName(inside, c)}: ${number(gate.values[c][rows[r]])}`,
    });
  });
}

// The maps of one gate, and which.
function gatesPicture(host, inside) {
  const names = gateNames(inside);
  if (names.length === 0) return;
  const keeps = inside.gates.flatMap((layer) => layer.gates).find((gate) => gate.keeps);
  let name = keeps ? keeps.name : names[0];
  const maps = element("div", "", { class: "charts" });
  if (names.length > 1) {
    const buttons = element("div", "", { class: "choice", role: "group", "aria-label": "Gate" });
    choice(buttons, names.map((one) => [one, one]), name, (one) => {
      clear(maps);
      gateMaps(maps, inside, one);
      drawNew();
    });
    host.append(buttons);
  }
  host.append(maps);
  gateMaps(maps, inside, name);
}

function radiusPicture(host, inside) {
  const jacobian = inside.jacobian;
  if (!jacobian || !jacobian.layers.some((layer) => layer.length > 0)) return;
  const norms = jacobian.layers.some((layer) => layer.some((p) => finite(p.norm)));
  place(host, "Spectral radius of a step",
        "The largest eigenvalue of the Jacobian of a layer’s state by the state before it: below 1 a " +
        "disturbance dies out, above 1 it grows." +
        (norms ? " Dashed: the norm, the most that a single step can stretch one." : ""), () => {
    const count = jacobian.layers.length;
    const datasets = jacobian.layers.flatMap((layer, l) => ["radius", "norm"].map((key) =>
      layerLine(l + 1, count, layer.map((p) => ({ x: p.step + 1, y: p[key] > 0 ? p[key] : null })),
                { tip: `Layer ${l + 1}, ${key}`, borderDash: key === "norm" ? [5, 4] : [],
                  borderWidth: key === "norm" ? 1.25 : 2.25, pointRadius: key === "norm" ? 0 : 3.5,
                  faint: key === "norm" })));
    return config([...datasets, level("1: neither grows nor dies out", 1, 1, stepsOf(inside), [2, 4])],
      axis("step of the sequence", { axis: { min: 1, max: stepsOf(inside) } }),
      logAxis("spectral radius", [1, ...datasets.flatMap((set) => set.data.map((p) => p.y))],
              { least: 1e-6, tick: (y) => number(y) }),
      { title: (items) => (items.length ? stepName(inside, items[0].parsed.x - 1) : ""),
        label: byLabel((y) => number(y)) });
  });
}

function growthPicture(host, inside) {
  const jacobian = inside.jacobian;
  if (!jacobian || jacobian.log_norms.length === 0) return;
  const exponent = jacobian.lyapunov_exponent;
  place(host, "Growth of a gradient through all states",
        "The length of a random gradient on its way back through the states of all layers. Its slope is " +
        `the Lyapunov exponent${finite(exponent) ? `, ${number(exponent)} a step` : ""}: below 0 gradients ` +
        "vanish, above 0 they explode.", () => {
    const points = jacobian.log_norms.map((y, k) => ({ x: k + 1, y: finite(y) ? y / Math.LN10 : null }));
    const last = points.length - 1, first = Math.floor(last / 5);
    const datasets = [layerLine(1, 1, points, { label: "Measured", group: "Measured", pointRadius: 0 })];
    if (finite(exponent) && last > first && finite(points[first].y))
      datasets.push({ ...level(`Slope ${number(exponent)} a step`, 0, 0, 0),
        data: [first, last].map((k) => ({ x: k + 1,
          y: points[first].y + (exponent * (k - first)) / Math.LN10 })) });
    return config(datasets, axis("steps back", { axis: { min: 1, max: points.length } }),
      axis("length of the gradient", { tick: (y) => (!Number.isInteger(y) ? "" : y === 0 ? "1" : `10${superscript(y)}`) }),
      { title: (items) => (items.length ? `${plural(items[0].parsed.x, "step")} back` : ""),
        label: byLabel((y) => number(10 ** y)) });
  });
}

function attentionPicture(host, inside) {
  const layers = inside.attention || [];
  if (!layers.some((layer) => layer.length > 0)) return;
  const steps = stepsOf(inside);
  const spec = (weights) => ({
    rows: steps, columns: steps, value: (r, c) => (c > r ? 0 : weights[r][c]),
    colours: () => heatScale({ low: 0, high: 1, root: true }),
    tip: (r, c) => (c > r ? `${stepName(inside, r)} does not see later steps`
      : `${stepName(inside, r)} takes ${number(weights[r][c])} from ${stepName(inside, c)}`),
  });
  const thumbnails = element("div", "", { class: "thumbnails" });
  const large = element("div", "", { class: "charts" });
  const shown = (weights, l, h) => heatmap(large, { ...spec(weights), wide: true,
    title: `Layer ${l + 1}, head ${h + 1}`, most: Math.min(960, 16 * steps), cell: (width) => width,
    note: "Each row is a step and shows from which steps up to it the head takes its input; the weights of " +
          "a row add up to 1. A diagonal line is a head that looks a fixed distance back.",
    symbols: inside.text, sideways: { symbols: inside.text },
    across: "what is looked at", down: "the step that looks" });
  const first = layers.findIndex((layer) => layer.length > 0);
  layers.forEach((heads, l) => {
    const row = element("div");
    thumbnails.append(row);
    heads.forEach((weights, h) =>
      thumbnail(row, `Layer ${l + 1}, head ${h + 1}`, spec(weights), l === first && h === 0, (button) => {
        for (const other of thumbnails.querySelectorAll("button"))
          other.setAttribute("aria-pressed", String(other === button));
        clear(large);
        shown(weights, l, h);
        drawNew();
      }));
  });
  host.append(thumbnails, large);
  shown(layers[first][0], first, 0);
}

const contextNote = "The loss at a step when the model is given so many steps before it and knows nothing " +
                    "else. Where a curve is flat, more context tells it nothing; where it rises, more misleads it.";
function contextConfig(datasets, contexts, unit) {
  return config(datasets, logAxis("context (steps)", contexts,
                                  { ticks: contexts, tick: (x) => number(x), exact: true }),
    axis(`loss (${unit})`, { axis: { grace: "10%" } }),
    { title: (items) => (items.length ? plural(items[0].parsed.x, "step") : ""),
      label: byLabel(lossText) });
}
const contextPoints = (inside) => inside.effective_context.map((p) => ({ x: p.context, y: p.loss }));

function contextPicture(host, inside) {
  const points = contextPoints(inside);
  if (points.length === 0) return;
  place(host, "Effective context", contextNote, () => contextConfig(
    [line(order[0], points)], points.map((p) => p.x), lossUnit(inside)), true);
}
