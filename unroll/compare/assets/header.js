// --- The results of a comparison

const { task, machine, settings, models, probes } = data;
const series = task.kind === "series";
const unit = series ? "rows" : "tokens";
const order = models.map((m) => m.name);

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
