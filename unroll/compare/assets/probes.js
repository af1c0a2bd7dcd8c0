// --- Gradient flow

function flowSection() {
  const probe = probes.gradient_flow;
  const curves = probe.curves.map((curve) => {
    // Where nothing can be at k = 0, the latest step that has a gradient stands in for it.
    const start = curve.norms.findIndex((x) => finite(x) && x > 0);
    const base = start < 0 ? NaN : curve.norms[start];
    const factor = /([\d.]+)\^k/.exec(curve.when);
    return { ...curve, start, radius: factor ? Number(factor[1]) : NaN,
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
        least: lowest, tick: power }),
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
