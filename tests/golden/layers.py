#!/usr/bin/env python3
"""Writes tests/golden/*.safetensors: what PyTorch's layers compute, in float64.

    python3 tests/golden/layers.py [folder]

Each file holds the parameters under PyTorch's names ("param.<name>"), the inputs ("in.<name>"),
what is computed ("out.<name>"), fixed weights ("seed.<name>") of loss = sum(out * seed), and the
gradients of that loss ("grad.<name>" of parameters, "ingrad.<name>" of inputs). Made with
PyTorch 1.13; any later one does.
"""
import json
import pathlib
import struct
import sys

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

STEPS, BATCH, INPUT, HIDDEN, PROJECTED = 4, 3, 3, 4, 2
MODEL, HEADS, MEMORY = 8, 2, 5
LENGTHS = torch.tensor([2, 4, 1])
MEMORY_LENGTHS = torch.tensor([3, 5, 2])
DTYPES = {torch.float64: "F64", torch.int64: "I64"}


def save(path, tensors):
    header, body = {}, b""
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        data = tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def write(case, parameters, inputs, call):
    """call(inputs) -> outputs by name."""
    inputs = {name: value.clone().requires_grad_(value.is_floating_point())
              for name, value in inputs.items()}
    outputs = call(inputs)
    seeds = {name: torch.randn_like(value) for name, value in outputs.items()}
    sum((outputs[name] * seeds[name]).sum() for name in outputs).backward()
    tensors = {}
    for name, value in parameters:
        tensors["param." + name] = value
        tensors["grad." + name] = value.grad
    for name, value in inputs.items():
        tensors["in." + name] = value
        if value.grad is not None:
            tensors["ingrad." + name] = value.grad
    for name, value in outputs.items():
        tensors["out." + name] = value
        tensors["seed." + name] = seeds[name]
    save(FOLDER / (case + ".safetensors"), tensors)


def recurrent(case, kind, layers, bidirectional, lengths, state, **options):
    layer = kind(INPUT, HIDDEN, num_layers=layers, bidirectional=bidirectional, **options)
    inputs = {"x": torch.randn(STEPS, BATCH, INPUT)}
    if lengths:
        inputs["lengths"] = LENGTHS
    if state:
        count = layers * (2 if bidirectional else 1)
        size = options.get("proj_size", 0) or HIDDEN
        inputs["state0"] = torch.randn(count, BATCH, size)
        if kind is nn.LSTM:
            inputs["state1"] = torch.randn(count, BATCH, HIDDEN)

    def call(values):
        x, first = values["x"], None
        if state:
            first = values["state0"]
            if kind is nn.LSTM:
                first = (first, values["state1"])
        if lengths:
            x = pack_padded_sequence(x, values["lengths"], enforce_sorted=False)
        output, last = layer(x, first)
        if lengths:
            output, _ = pad_packed_sequence(output, total_length=STEPS)
        last = last if isinstance(last, tuple) else (last,)
        return {"output": output, **{f"state{i}": one for i, one in enumerate(last)}}

    write(case, layer.named_parameters(), inputs, call)


def hidden(lengths, steps):
    return torch.arange(steps)[None, :] >= lengths[:, None]


def causal(steps):
    return torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)


def randomize(module):
    """Zero biases and gains of 1 would hide a wrong formula."""
    for _, parameter in module.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
    return module


def attention(case, memory=False, is_causal=False, lengths=False, bias=True):
    layer = randomize(nn.MultiheadAttention(MODEL, HEADS, bias=bias))
    inputs = {"x": torch.randn(STEPS, BATCH, MODEL)}
    if memory:
        inputs["memory"] = torch.randn(MEMORY, BATCH, MODEL)
    keys = MEMORY if memory else STEPS
    if lengths:
        inputs["lengths"] = MEMORY_LENGTHS if memory else LENGTHS

    def call(values):
        source = values["memory"] if memory else values["x"]
        output, weights = layer(
            values["x"], source, source,
            key_padding_mask=hidden(values["lengths"], keys) if lengths else None,
            attn_mask=causal(STEPS) if is_causal else None, average_attn_weights=False)
        return {"output": output, "weights": weights}

    write(case, layer.named_parameters(), inputs, call)


def encoder(case, **options):
    layer = randomize(nn.TransformerEncoderLayer(MODEL, HEADS, 12, dropout=0.0, **options))
    inputs = {"x": torch.randn(STEPS, BATCH, MODEL), "lengths": LENGTHS}
    write(case, layer.named_parameters(), inputs, lambda values: {
        "output": layer(values["x"], src_mask=causal(STEPS),
                        src_key_padding_mask=hidden(values["lengths"], STEPS))})


def decoder(case, **options):
    layer = randomize(nn.TransformerDecoderLayer(MODEL, HEADS, 12, dropout=0.0, **options))
    inputs = {"x": torch.randn(STEPS, BATCH, MODEL), "memory": torch.randn(MEMORY, BATCH, MODEL),
              "memory_lengths": MEMORY_LENGTHS}
    write(case, layer.named_parameters(), inputs, lambda values: {
        "output": layer(values["x"], values["memory"], tgt_mask=causal(STEPS),
                        memory_key_padding_mask=hidden(values["memory_lengths"], MEMORY))})


def encoder_stack(case):
    one = nn.TransformerEncoderLayer(MODEL, HEADS, 12, dropout=0.0, norm_first=True)
    stack = randomize(nn.TransformerEncoder(one, 2, norm=nn.LayerNorm(MODEL)))
    inputs = {"x": torch.randn(STEPS, BATCH, MODEL)}
    write(case, stack.named_parameters(), inputs,
          lambda values: {"output": stack(values["x"], mask=causal(STEPS))})


def layer_norm(case):
    layer = randomize(nn.LayerNorm(MODEL, eps=1e-3))
    write(case, layer.named_parameters(), {"x": torch.randn(STEPS, BATCH, MODEL) * 3 + 2},
          lambda values: {"output": layer(values["x"])})


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.head = nn.Linear(5, 7)

    def forward(self, tokens):
        return self.head(self.embed(tokens))


def classifier(case, **options):
    model = Classifier()
    tokens = torch.randint(0, 7, (STEPS, BATCH))
    targets = torch.randint(0, 7, (STEPS, BATCH))
    targets[1, 2] = targets[3, 0] = options.get("ignore_index", -100)

    def call(values):
        logits = model(values["tokens"])
        return {"loss": nn.functional.cross_entropy(logits.reshape(-1, 7),
                                                    values["targets"].reshape(-1), **options)}

    write(case, model.named_parameters(), {"tokens": tokens, "targets": targets}, call)


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(1)
    for name, kind, options in [("rnn_tanh", nn.RNN, {}),
                                ("rnn_relu", nn.RNN, {"nonlinearity": "relu"}),
                                ("lstm", nn.LSTM, {}),
                                ("lstm_proj", nn.LSTM, {"proj_size": PROJECTED}),
                                ("gru", nn.GRU, {})]:
        recurrent(f"{name}_1", kind, 1, False, False, False, **options)
        recurrent(f"{name}_1_lengths", kind, 1, False, True, True, **options)
        recurrent(f"{name}_3", kind, 3, True, False, True, **options)
        recurrent(f"{name}_3_lengths", kind, 3, True, True, True, **options)
    attention("attention_causal", is_causal=True)
    attention("attention_lengths", lengths=True)
    attention("attention_cross", memory=True)
    attention("attention_cross_lengths", memory=True, lengths=True)
    attention("attention_unbiased", is_causal=True, bias=False)
    for activation in ("relu", "gelu"):
        encoder(f"encoder_post_{activation}", activation=activation)
        encoder(f"encoder_pre_{activation}", activation=activation, norm_first=True)
    decoder("decoder_post")
    decoder("decoder_pre", norm_first=True, activation="gelu")
    encoder_stack("encoder_stack")
    layer_norm("layer_norm")
    classifier("classifier")
    classifier("classifier_smooth", ignore_index=6, label_smoothing=0.1)


if __name__ == "__main__":
    FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent)
    main()
