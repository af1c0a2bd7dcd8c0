// --- Looking inside, in the report of a comparison: models side by side, then one of them

function together(host, all) {
  const own = (m, points, options = {}) => line(m.name, points, options);
  const contexts = [...new Set(all.flatMap((m) => contextPoints(m.inside).map((p) => p.x)))]
                       .sort((a, b) => a - b);
  if (contexts.length)
    place(host, "Effective context", contextNote, () => contextConfig(
      all.map((m) => own(m, contextPoints(m.inside))), contexts, task.metric), true);
  const horizons = all.map((m) => ({ ...m,
    horizons: (m.inside.gates || []).flatMap((layer) => layer.horizon || []) }))
      .filter((m) => m.horizons.length > 0);
  if (horizons.length)
    place(host, "Memory horizons of the units of all layers", horizonNote, () => horizonConfig(
      horizons.map((m) => own(m, sortedHorizons(m.horizons)))));
  const radii = all.filter((m) => m.inside.jacobian && m.inside.jacobian.layers.some((l) => l.length));
  if (radii.length === 0) return;
  const steps = Math.max(...all.map((m) => stepsOf(m.inside)));
  // The matrix of all layers has theirs on its diagonal.
  const largest = (m) => m.inside.jacobian.layers[0].map((p, i) => {
    const at = m.inside.jacobian.layers.map((layer) => layer[i]).filter((one) => one && finite(one.radius));
    return { x: p.step + 1, y: at.length ? Math.max(...at.map((one) => one.radius)) : null };
  });
  place(host, "Spectral radius of a step",
        "The largest eigenvalue of the Jacobian of the state by the state before it: below 1 a disturbance " +
        "dies out, above 1 it grows.", () => {
    const datasets = radii.map((m) => own(m, largest(m)));
    return config([...datasets, level("1: neither grows nor dies out", 1, 1, steps, [2, 4])],
      axis("step of the sequence", { axis: { min: 1, max: steps } }),
      logAxis("spectral radius", [1, ...datasets.flatMap((set) => set.data.map((p) => p.y))],
              { least: 1e-6, tick: (y) => number(y) }),
      { title: (items) => (items.length ? stepName(radii[0].inside, items[0].parsed.x - 1) : ""),
        label: byLabel((y) => number(y)) });
  });
}

function insideSection() {
  const all = models.filter((m) => m.inside);
  if (all.length === 0) return false;
  together("#inside .charts", all);
  const host = element("div", "", { class: "one" });
  const build = (name) => {
    const { inside } = all.find((m) => m.name === name);
    const half = element("div", "", { class: "charts" });
    host.append(half);
    flowPicture(half, inside);
    horizonPicture(half, inside, false);
    radiusPicture(half, inside);
    gatesPicture(host, inside);
    attentionPicture(host, inside);
  };
  // The one with the most to see comes first.
  const richest = all.find((m) => m.inside.gates) || all[0];
  choice($("#inside .choice"), all.map((m) => [m.name, label(m.name)]), richest.name, (name) => {
    clear(host);
    build(name);
    drawNew();
  });
  $("#inside").append(host);
  build(richest.name);
  return true;
}
