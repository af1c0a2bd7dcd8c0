#!/usr/bin/env python3
"""Writes tests/golden/{mingru,minlstm,mamba,rwkv}*.safetensors from the equations alone.

    python3 tests/golden/state_space.py [folder]

The layers of Feng et al. 2024, Gu and Dao 2023, and Peng et al. 2024 (version 6), one row of the
batch and one step at a time in NumPy, with no help of any framework. Gradients are complex-step
derivatives (the imaginary part of the loss at x + ih, h = 1e-30), which are exact to rounding. The
files hold what those of layers.py hold.
"""
import json
import pathlib
import struct
import sys

import numpy as np

STEPS, LENGTHS = 5, np.array([2, 5, 0])
BATCH = len(LENGTHS)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.log(1 + np.exp(x))


def relu(x):
    return np.where(x.real > 0, x, 0)


def g(x):
    return np.where(x.real >= 0, x + 0.5, sigmoid(x))


def erf(x):
    """By its power series, which converges everywhere and takes complex numbers."""
    term = total = x
    for n in range(1, 60):
        term = -term * x * x / n
        total = total + term / (2 * n + 1)
    return 2 / np.sqrt(np.pi) * total


def gelu(x):
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def rms_norm(x, weight):
    return x / np.sqrt(np.mean(x * x) + 1e-5) * weight


def layer_norm(x, weight, bias, eps=1e-5):
    centred = x - np.mean(x)
    return centred / np.sqrt(np.mean(centred * centred) + eps) * weight + bias


def convolved(x, window, weight, bias):
    """One step of a depthwise causal convolution: y, and the window behind it."""
    window = np.concatenate([window, x[None]])
    return np.einsum("kd,dk->d", window, weight[:, 0, :]) + bias, window[1:]


def mingru(p, x, state):
    (h,) = state
    a = p["weight_ih"] @ x + p["bias_ih"]
    z, candidate = sigmoid(a[: len(h)]), g(a[len(h):])
    h = (1 - z) * h + z * candidate
    return h, (h,)


def minlstm(p, x, state):
    (h,) = state
    n = len(h)
    a = p["weight_ih"] @ x + p["bias_ih"]
    f, i, candidate = sigmoid(a[:n]), sigmoid(a[n:2 * n]), g(a[2 * n:])
    h = f / (f + i) * h + i / (f + i) * candidate
    return h, (h,)


def minimal_block(unit):
    def step(p, x, state):
        window, h = state
        y, window = convolved(rms_norm(x, p["norm1.weight"]), window, p["conv.weight"],
                              p["conv.bias"])
        inner = {name[4:]: value for name, value in p.items() if name.startswith("rnn.")}
        h, _ = unit(inner, y, (h,))
        x = x + p["out_proj.weight"] @ h + p["out_proj.bias"]
        wide = gelu(p["linear1.weight"] @ rms_norm(x, p["norm2.weight"]) + p["linear1.bias"])
        return x + p["linear2.weight"] @ wide + p["linear2.bias"], (window, h)
    return step


def mamba(p, u, state):
    window, h = state  # [taps - 1, D], [N, D]
    channels, states = p["A_log"].shape
    rank = p["dt_proj.weight"].shape[1]
    xz = p["in_proj.weight"] @ u
    x, z = xz[:channels], xz[channels:]
    x, window = convolved(x, window, p["conv1d.weight"], p["conv1d.bias"])
    x = silu(x)
    selected = p["x_proj.weight"] @ x
    b, c = selected[rank:rank + states], selected[rank + states:]
    dt = softplus(p["dt_proj.weight"] @ selected[:rank] + p["dt_proj.bias"])
    a = -np.exp(p["A_log"])
    h = np.exp(dt[:, None] * a).T * h + np.outer(b, dt * x)
    y = c @ h + p["D"] * x
    return p["out_proj.weight"] @ (y * silu(z)), (window, h)


def mamba_block(p, x, state):
    inner = {name[6:]: value for name, value in p.items() if name.startswith("mixer.")}
    y, state = mamba(inner, rms_norm(x, p["norm.weight"]), state)
    return x + y, state


def rwkv_time(p, x, before, s):
    heads, size = p["time_faaaa"].shape
    away = before - x
    mixed = x + away * p["time_maa_x"]
    narrow = np.tanh(mixed @ p["time_maa_w1"]).reshape(5, -1)
    shifted = {name: x + away * (p["time_maa_" + name] + narrow[i] @ p["time_maa_w2"][i])
               for i, name in enumerate("wkvrg")}
    r = (p["receptance.weight"] @ shifted["r"]).reshape(heads, size)
    k = (p["key.weight"] @ shifted["k"]).reshape(heads, size)
    v = (p["value.weight"] @ shifted["v"]).reshape(heads, size)
    gate = silu(p["gate.weight"] @ shifted["g"])
    decay = p["time_decay"] + np.tanh(shifted["w"] @ p["time_decay_w1"]) @ p["time_decay_w2"]
    w = np.exp(-np.exp(decay)).reshape(heads, size)
    out, after = [], []
    for n in range(heads):
        kv = np.outer(k[n], v[n])
        y = r[n] @ (s[n] + p["time_faaaa"][n][:, None] * kv)
        part = slice(n * size, (n + 1) * size)
        out.append(layer_norm(y, p["ln_x.weight"][part], p["ln_x.bias"][part], 64e-5))
        after.append(w[n][:, None] * s[n] + kv)
    return p["output.weight"] @ (np.concatenate(out) * gate), np.array(after)


def rwkv_channel(p, x, before):
    away = before - x
    k = relu(p["key.weight"] @ (x + away * p["time_maa_k"]))
    r = sigmoid(p["receptance.weight"] @ (x + away * p["time_maa_r"]))
    return r * (p["value.weight"] @ (k * k))


def rwkv_block(p, x, state):
    before_time, s, before_channel = state
    part = lambda name: {key[4:]: value for key, value in p.items() if key.startswith(name + ".")}
    first = layer_norm(x, p["ln1.weight"], p["ln1.bias"])
    y, s = rwkv_time(part("att"), first, before_time, s)
    x = x + y
    second = layer_norm(x, p["ln2.weight"], p["ln2.bias"])
    return x + rwkv_channel(part("ffn"), second, before_channel), (first, s, second)


def run(step, p, inputs, outputs):
    """Every row up to its length: outputs [T, B, O], 0 behind it, and the states there."""
    x = inputs["x"]
    lengths = inputs.get("lengths", np.full(BATCH, STEPS))
    out = np.zeros((STEPS, BATCH, outputs), dtype=complex)
    last = []
    for b in range(BATCH):
        state = tuple(inputs[name][b] for name in sorted(inputs) if name.startswith("state"))
        for t in range(lengths[b]):
            out[t, b], state = step(p, x[t, b], state)
        last.append(state)
    result = {"output": out}
    for k in range(len(last[0])):
        result[f"state{k}"] = np.array([state[k] for state in last])
    return result


def save(path, tensors):
    header, body = {}, b""
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        kind = "I64" if value.dtype == np.int64 else "F64"
        data = value.astype("<i8" if kind == "I64" else "<f8").tobytes()
        header[name] = {"dtype": kind, "shape": list(value.shape),
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def write(case, step, shapes, size, states, outputs=None):
    random = np.random.default_rng(sum(case.encode()))
    p = {name: random.normal(0, 0.6, shape) for name, shape in shapes.items()}
    inputs = {"x": random.normal(0, 1, (STEPS, BATCH, size))}
    for k, shape in enumerate(states):
        inputs[f"state{k}"] = random.normal(0, 1, (BATCH, *shape))
    if case.endswith("lengths"):
        inputs["lengths"] = LENGTHS
    values = run(step, p, inputs, outputs or size)
    seeds = {name: random.normal(0, 1, value.shape) for name, value in values.items()}

    def loss():
        got = run(step, p, inputs, outputs or size)
        return sum((got[name] * seeds[name]).sum() for name in got)

    tensors = {}
    for prefix, gradient, group in (("param.", "grad.", p), ("in.", "ingrad.", inputs)):
        for name in list(group):
            given = group[name]
            tensors[prefix + name] = given
            if given.dtype == np.int64:
                continue
            group[name] = given.astype(complex)
            slope = np.zeros(given.shape)
            for place in np.ndindex(given.shape):
                group[name][place] += 1e-30j
                slope[place] = loss().imag / 1e-30
                group[name][place] = given[place]
            group[name] = given
            tensors[gradient + name] = slope
    for name in values:
        tensors["out." + name] = values[name].real
        tensors["seed." + name] = seeds[name]
    save(FOLDER / (case + ".safetensors"), tensors)


def minimal_shapes(gates, size, inner):
    return {"norm1.weight": [size], "conv.weight": [size, 1, 4], "conv.bias": [size],
            "rnn.weight_ih": [gates * inner, size], "rnn.bias_ih": [gates * inner],
            "out_proj.weight": [size, inner], "out_proj.bias": [size], "norm2.weight": [size],
            "linear1.weight": [4 * size, size], "linear1.bias": [4 * size],
            "linear2.weight": [size, 4 * size], "linear2.bias": [size]}


def mamba_shapes(size, inner, states, taps, rank):
    return {"norm.weight": [size], "mixer.A_log": [inner, states], "mixer.D": [inner],
            "mixer.in_proj.weight": [2 * inner, size], "mixer.conv1d.weight": [inner, 1, taps],
            "mixer.conv1d.bias": [inner], "mixer.x_proj.weight": [rank + 2 * states, inner],
            "mixer.dt_proj.weight": [inner, rank], "mixer.dt_proj.bias": [inner],
            "mixer.out_proj.weight": [size, inner]}


def rwkv_shapes(size, heads, rank, decay_rank, inner):
    shapes = {f"{norm}.{part}": [size] for norm in ("ln1", "ln2", "att.ln_x")
              for part in ("weight", "bias")}
    for name in ("maa_x", "maa_w", "maa_k", "maa_v", "maa_r", "maa_g", "decay"):
        shapes["att.time_" + name] = [size]
    for name in ("receptance", "key", "value", "gate", "output"):
        shapes[f"att.{name}.weight"] = [size, size]
    return shapes | {
        "att.time_maa_w1": [size, 5 * rank], "att.time_maa_w2": [5, rank, size],
        "att.time_decay_w1": [size, decay_rank], "att.time_decay_w2": [decay_rank, size],
        "att.time_faaaa": [heads, size // heads], "ffn.time_maa_k": [size],
        "ffn.time_maa_r": [size], "ffn.key.weight": [inner, size],
        "ffn.receptance.weight": [size, size], "ffn.value.weight": [size, inner]}


FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
for suffix in ("", "_lengths"):
    for name, unit, gates in (("mingru", mingru, 2), ("minlstm", minlstm, 3)):
        write(name + suffix, unit, {"weight_ih": [gates * 4, 3], "bias_ih": [gates * 4]}, 3,
              [(4,)], 4)
        write(name + "_block" + suffix, minimal_block(unit), minimal_shapes(gates, 3, 6), 3,
              [(3, 3), (6,)])
    write("mamba" + suffix, mamba_block, mamba_shapes(4, 8, 3, 3, 2), 4, [(2, 8), (3, 8)])
    write("rwkv" + suffix, rwkv_block, rwkv_shapes(6, 2, 2, 3, 8), 6, [(6,), (2, 3, 3), (6,)])
