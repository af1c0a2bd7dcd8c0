// --- A task's scores by length

// The mean of the seeds.
function lengthsSection() {
  const probe = probes.lengths;
  if (!probe || probe.points.length === 0) return false;
  const lengths = probe.baselines.map((b) => b.length);
  const error = probe.score !== "accuracy";
  const at = (name, length, key) => {
    const own = probe.points.filter((p) => p.model === name && p.length === length);
    return own.length && own.every((p) => finite(p[key])) ? mean(own.map((p) => p[key])) : null;
  };
  const show = (y) => (error ? number(y) : finite(y) ? `${(100 * y).toFixed(1)} %` : "–");
  const own = css("--reference");
  const values = [...probe.points.map((p) => p.score), ...probe.baselines.map((b) => b.score)];
  place("#lengths .charts", `${capital(probe.score)} by length`,
        `trained up to ${number(probe.trained)} ${probe.counts}, scored on fresh sequences`, () => config(
    [...order.map((name) => line(name, lengths.map((x) => ({ x, y: at(name, x, "score") })))),
     { ...level(`Baseline: ${probe.baseline}`, 0, 0, 0), borderColor: own,
       data: probe.baselines.map((b) => ({ x: b.length, y: b.score })) }],
    logAxis(`length (${probe.counts})`, lengths, { ticks: lengths, tick: (x) => number(x), exact: true }),
    error ? logAxis(probe.score, values, { tick: (y) => number(y) })
          : axis(probe.score, { tick: (y) => `${Math.round(100 * y)} %`, axis: { min: 0, max: 1 } }),
    { title: (items) => (items.length ? `${number(items[0].parsed.x)} ${probe.counts}` : ""),
      label: (item) => `${item.dataset.label}: ${show(item.raw.y)}` }), true);
  const solved = (length) => order.filter((name) => at(name, length, "exact") >= 0.99).map(label);
  $("#lengths .reading").textContent = lengths.map((length) => {
    const names = solved(length);
    return `At ${number(length)} ${probe.counts} ` +
           (names.length ? `${list(names)} ${names.length > 1 ? "answer" : "answers"}` : "no model answers") +
           " 99 % of the sequences without a mistake.";
  }).join(" ");
  numbers("#lengths", ["Model", ...lengths.map((n) => [number(n), "whole sequences"])],
          order.map((name) => ({ name, text: label(name), cells: lengths.map((n) => {
            const exact = at(name, n, "exact");
            return [show(at(name, n, "score")), finite(exact) ? `${(100 * exact).toFixed(1)} %` : "–"];
          }) })));
  return true;
}

// --- Truncated back-propagation

function truncationSection() {
  const probe = probes.truncation;
  if (!probe || probe.points.length === 0) return false;
  const names = [...new Set(probe.points.map((p) => p.model))];
  const reaches = [...new Set(probe.points.map((p) => p.k2))].sort((a, b) => a - b);
  const of = (name) => probe.points.filter((p) => p.model === name).sort((a, b) => a.k2 - b.k2);
  place("#truncation .charts", "Best validation loss by k2", `${task.metric}; k1 = ${number(probe.k1)}`,
        () => config(
    names.map((name) => line(name, of(name).map((p) => ({ x: p.k2, y: p.loss })))),
    logAxis("k2, steps that a gradient goes back", reaches,
            { ticks: reaches, tick: (x) => number(x), exact: true }),
    axis("validation loss", { axis: { grace: "10%" } }),
    { title: (items) => (items.length ? `k2 = ${number(items[0].parsed.x)}` : ""),
      label: (item) => `${item.dataset.label}: ${lossText(item.raw.y)}` }), true);
  numbers("#truncation", ["Model", ...reaches.map((k2) => `k2 = ${number(k2)}`)],
          names.map((name) => ({ name, text: label(name), cells: reaches.map((k2) => {
            const p = of(name).find((one) => one.k2 === k2);
            return p ? lossText(p.loss) : "–";
          }) })));
  return true;
}
