// --- Scaling

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
