// --- Training

const rate = (x) => `${count(x)} ${unit}/s`;

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
  choice($("#axis"), Object.entries(axes).map(([one, { name }]) => [one, `By ${name.toLowerCase()}`]), key,
         (one) => {
           key = one;
           draw(chart);
         });
}
