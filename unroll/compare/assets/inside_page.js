// --- The page of unroll inspect

const inside = data;
const order = [inside.model.kind];

function middle(values) {
  const all = values.map((x) => (finite(x) ? x : Infinity)).sort((a, b) => a - b);
  return all[Math.floor(all.length / 2)];
}

function insideHeader() {
  const { model, text } = inside, name = label(model.kind);
  $("#title").textContent = document.title = `Inside the ${name}`;
  const heads = model.kind === "transformer" && finite(model.heads) ? `, ${plural(model.heads, "head")}` : "";
  $("#setting").textContent = `${name} of ${plural(model.layers, "layer")} of ${number(model.hidden)}${heads}` +
    ` · pictures along one sequence of ${plural(stepsOf(inside), "step")}` + (text ? ", which reads:" : "");
  $("#text").textContent = (text || []).map((symbol) => symbol === "\n" ? "↵\n" : symbol).join("");
  $("#text").hidden = !text;
  const parts = [];
  const horizons = (inside.gates || []).flatMap((layer) => layer.horizon || []);
  if (horizons.length) {
    const far = horizons.filter((h) => !finite(h) || h > 10).length;
    const half = middle(horizons);
    parts.push(`Half of the units remember ${finite(half) ? number(half) : "∞"} steps or more, and ` +
               `${number(far)} of ${number(horizons.length)} more than 10.`);
  }
  const exponent = inside.jacobian ? inside.jacobian.lyapunov_exponent : null;
  if (finite(exponent))
    parts.push(`A gradient changes by a factor of ${number(Math.exp(exponent))} a step on its way back.`);
  const context = inside.effective_context.filter((p) => finite(p.loss));
  if (context.length > 1) {
    const best = Math.min(...context.map((p) => p.loss));
    const enough = context.find((p) => p.loss < best + 0.01);
    parts.push(`With ${plural(enough.context, "step")} of context the loss is ${lossText(enough.loss)}; more ` +
               `makes it no more than 0.01 better (at best ${lossText(best)}).`);
  }
  $("#summary").textContent = parts.join(" ");
}

// Hidden where the model has nothing to show there.
const pictures = (id, ...draws) => section(id, () => {
  const host = $(`${id} .pictures`);
  draws.forEach((one) => one(host, inside));
  return host.children.length > 0;
});

section("header", insideHeader);
pictures("#flow", flowPicture);
pictures("#horizons", horizonPicture, histogramPictures);
pictures("#gates", gatesPicture);
pictures("#jacobian", radiusPicture, growthPicture);
pictures("#attention", attentionPicture);
pictures("#context", contextPicture);
show(data);
