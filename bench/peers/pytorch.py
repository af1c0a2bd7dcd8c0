#!/usr/bin/env python3
"""The cases of unroll_bench in PyTorch: the same names, shapes and way of timing, one JSON object a
line. Needs nothing but PyTorch, 1.13 or later."""
import argparse
import gc
import json
import math
import re
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 65


def timed(run, seconds):
    """Median and best of five rounds, in seconds a run."""
    run()
    run()
    rounds = []
    for _ in range(5):
        runs, start = 0, time.perf_counter()
        while True:
            run()
            runs += 1
            passed = time.perf_counter() - start
            if passed >= seconds / 5:
                break
        rounds.append(passed / runs)
    rounds.sort()
    return rounds[2], rounds[0]


def live_bytes():
    """Of all tensors that Python can see, each storage once."""
    storages = {}
    for one in gc.get_objects():
        if isinstance(one, torch.Tensor):
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak_bytes(run):
    """The most that is live during a run: what lived before it, and the allocator's events."""
    run()
    gc.collect()
    before = live_bytes()
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    live = most = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns() if hasattr(e, "start_ns")
                        else e.start_us()):
        live += event.nbytes()
        most = max(most, live)
    return before + most


def causal_attention(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v


class UserRNN(nn.Module):
    def __init__(self, inputs, size):
        super().__init__()
        self.x, self.h = nn.Linear(inputs, size), nn.Linear(size, size, bias=False)

    def forward(self, x):
        h = x.new_zeros(x.shape[1], self.h.in_features)
        xs, outputs = self.x(x), []
        for step in xs:
            h = torch.tanh(step + self.h(h))
            outputs.append(h)
        return torch.stack(outputs)


class UserLSTM(nn.Module):
    def __init__(self, inputs, size):
        super().__init__()
        self.x, self.h = nn.Linear(inputs, 4 * size), nn.Linear(size, 4 * size)

    def forward(self, x):
        h = c = x.new_zeros(x.shape[1], self.h.in_features)
        outputs = []
        for step in x:
            i, f, g, o = (self.x(step) + self.h(h)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs)


class Recurrent(nn.Module):
    def __init__(self, kind, *sizes, **options):
        super().__init__()
        self.layer = getattr(nn, kind)(*sizes, **options)

    def forward(self, x):
        return self.layer(x)[0]


class CharModel(nn.Module):
    def __init__(self, kind, size, layers):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, size)
        self.layer = Recurrent(kind, size, size, layers, batch_first=True)
        self.head = nn.Linear(size, VOCABULARY)

    def forward(self, x):
        return self.head(self.layer(self.embed(x)))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, steps, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, steps, 3, self.heads, width // self.heads)
        y = causal_attention(*qkv.permute(2, 0, 3, 1, 4))
        x = x + self.out(y.transpose(1, 2).reshape(batch, steps, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, width, layers, heads, steps):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Parameter(torch.zeros(steps, width))
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(layers)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.embed(x) + self.positions)))


def training(make_model, *shape, bf16=False):
    """On sequences [T, B, inputs], or on tokens where the shape is [B, T]."""
    model = make_model()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    tokens = len(shape) == 2
    x = torch.randint(VOCABULARY, shape) if tokens else torch.randn(*shape)
    y = torch.randint(VOCABULARY, shape)

    def run():
        adam.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            out = model(x)
        out = out.float()
        loss = F.cross_entropy(out.flatten(0, 1), y.flatten()) if tokens else out.square().mean()
        loss.backward()
        adam.step()

    return run


def attention(steps):
    shape = (max(1, 4096 // steps), 4, steps, 64)
    inputs = [torch.randn(*shape, requires_grad=True) for _ in range(3)]
    return lambda: torch.autograd.grad(causal_attention(*inputs).sum(), inputs)


def stream(kind, size):
    layer, x, state = getattr(nn, kind)(size, size, 1).eval(), torch.randn(1, 1, size), None

    def run():
        nonlocal state
        with torch.inference_mode():
            state = layer(x, state)[1]

    return run


def overhead():
    x = torch.zeros(1, requires_grad=True)

    def run():
        y = x
        for _ in range(1000):
            y = y * 1.0001
        torch.autograd.grad(y, x)

    return run


def cases():
    """Name, unit, and what builds the function to time."""
    kinds = ("RNN", "LSTM", "GRU")
    for k in kinds:
        yield (f"{k} seed shape 64-128x2 bidir B32 T50", "ms", lambda k=k: training(
            lambda: Recurrent(k, 64, 128, 2, bidirectional=True), 50, 32, 64))
        yield (f"{k} 128 B16 T100", "ms",
               lambda k=k: training(lambda: Recurrent(k, 128, 128), 100, 16, 128))
        yield (f"{k} 512 B32 T64", "ms",
               lambda k=k: training(lambda: Recurrent(k, 512, 512), 64, 32, 512))
    yield ("custom RNN cell 64-128 B32 T50", "ms",
           lambda: training(lambda: UserRNN(64, 128), 50, 32, 64))
    yield ("custom LSTM cell 64-128 B32 T50", "ms",
           lambda: training(lambda: UserLSTM(64, 128), 50, 32, 64))
    yield ("custom LSTM cell 32-32 B8 T100", "ms",
           lambda: training(lambda: UserLSTM(32, 32), 100, 8, 32))
    for k in ("LSTM", "GRU", "RNN"):
        yield (f"char {k} 256x2 B12 T64", "ms",
               lambda k=k: training(lambda: CharModel(k, 256, 2), 12, 64))
    yield ("nanoGPT-cpu 4L4H128 B12 T64", "ms",
           lambda: training(lambda: GPT(128, 4, 4, 64), 12, 64))
    yield ("GPT 4L4H256 B8 T256", "ms", lambda: training(lambda: GPT(256, 4, 4, 256), 8, 256))
    for t in (512, 2048, 4096):
        yield (f"causal attention fwd+bwd B{max(1, 4096 // t)} H4 T{t} D64", "ms",
               lambda t=t: attention(t))
    for k in kinds:
        for size in (64, 256):
            yield f"stream {k} {size} B1", "us", lambda k=k, size=size: stream(k, size)
    yield ("LSTM 512 B32 T64 bf16", "ms",
           lambda: training(lambda: Recurrent("LSTM", 512, 512), 64, 32, 512, bf16=True))
    yield ("nanoGPT-cpu 4L4H128 B12 T64 bf16", "ms",
           lambda: training(lambda: GPT(128, 4, 4, 64), 12, 64, bf16=True))
    yield "autograd overhead ns/op (scalar mul chain fwd+bwd)", "ns", overhead


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filter", default=".", help="regular expression that names contain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", action="store_true", help="measure peak_bytes instead")
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure each case for")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    found = False
    for name, unit, make in cases():
        if not re.search(arguments.filter, name):
            continue
        found = True
        if arguments.memory:
            print(json.dumps({"case": name, "peak_bytes": peak_bytes(make()),
                              "torch": torch.__version__}), flush=True)
            continue
        median, best = timed(make(), arguments.seconds)
        scale = 1e3 if unit == "ms" else 1e6  # ns: a run is a chain of 1000
        print(json.dumps({"case": name, "threads": arguments.threads, unit: median * scale,
                          f"{unit}_best": best * scale, "torch": torch.__version__}), flush=True)
    if not found:
        sys.exit(f"pytorch.py: no case matches '{arguments.filter}'")


if __name__ == "__main__":
    main()
