#!/usr/bin/env python3
"""Writes tests/optim/golden.h: what PyTorch's optimizers do to two parameters in five steps.

    python3 tests/golden/optim.py > tests/optim/golden.h

The gradient is grad[i] = 0.3 * (i % 3 + 1) * p[i] - 0.1 * (step + 1), so that it depends on the
parameter and the test can compute it too. The second parameter has none in step 2. Made with
PyTorch 1.13.
"""
import torch

STEPS = 5
CASES = [
    ("sgd", torch.optim.SGD, dict(lr=0.1)),
    ("sgd_decay", torch.optim.SGD, dict(lr=0.1, weight_decay=0.05)),
    ("sgd_momentum", torch.optim.SGD, dict(lr=0.1, momentum=0.9, dampening=0.3)),
    ("sgd_nesterov", torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05)),
    ("rmsprop", torch.optim.RMSprop, dict()),
    ("rmsprop_momentum", torch.optim.RMSprop,
     dict(lr=0.02, alpha=0.9, eps=1e-3, momentum=0.8, weight_decay=0.05)),
    ("rmsprop_centered", torch.optim.RMSprop, dict(centered=True)),
    ("rmsprop_all", torch.optim.RMSprop, dict(centered=True, momentum=0.5)),
    ("adam", torch.optim.Adam, dict()),
    ("adam_decay", torch.optim.Adam, dict(lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.1)),
    ("adam_amsgrad", torch.optim.Adam, dict(lr=0.02, betas=(0.5, 0.6), amsgrad=True)),
    ("adamw", torch.optim.AdamW, dict()),
    ("adamw_decay", torch.optim.AdamW, dict(lr=0.02, betas=(0.9, 0.99), weight_decay=0.5)),
    ("adamw_amsgrad", torch.optim.AdamW, dict(lr=0.02, betas=(0.5, 0.6), amsgrad=True)),
    ("adagrad", torch.optim.Adagrad, dict()),
    ("adagrad_decay", torch.optim.Adagrad,
     dict(lr=0.1, lr_decay=0.2, weight_decay=0.05, initial_accumulator_value=0.3, eps=1e-4)),
]


def run(optimizer_class, options):
    torch.set_default_dtype(torch.float64)
    weight = torch.tensor([[0.5, -1.0, 2.0], [-0.25, 0.0, 1.5]], requires_grad=True)
    bias = torch.tensor([0.1, -0.2, 0.3, -0.4], requires_grad=True)
    optimizer = optimizer_class([weight, bias], **options)
    for step in range(STEPS):
        for p in (weight, bias):
            index = torch.arange(p.numel()).reshape(p.shape) % 3 + 1
            p.grad = 0.3 * index * p.detach() - 0.1 * (step + 1)
        if step == 2:
            bias.grad = None
        optimizer.step()
    return weight.flatten().tolist() + bias.tolist()


def plateau(**options):
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    rates = []
    for metric in METRICS:
        schedule.step(metric)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


METRICS = [5.0, 4.0, 4.0, 4.1, 3.9999, 4.0, 3.0, 3.1, float("nan"), 3.2, 3.3, 3.4, 2.0, 2.1, 2.2,
           2.3, 2.4, 2.5, 2.6]


def array(name, values):
    numbers = ", ".join("NAN" if v != v else repr(v) for v in values)
    lines, line = [], "   "
    for number in numbers.split(" "):
        if len(line) + 1 + len(number) > 98:
            lines.append(line)
            line = "   "
        line += " " + number
    lines.append(line)
    print(f"inline constexpr double {name}[] = {{\n" + "\n".join(lines) + "};")


print("#pragma once\n\n// Made by tests/golden/optim.py.\n// clang-format off\n\n#include <cmath>\n\nnamespace golden {\n")
for name, optimizer_class, options in CASES:
    array(name, run(optimizer_class, options))
array("metrics", METRICS)
array("plateau", plateau(factor=0.5, patience=1))
array("plateau_cooldown", plateau(factor=0.1, patience=0, cooldown=2, min_lr=0.005))
array("plateau_higher", plateau(mode="max", factor=0.5, patience=2, threshold=0.01))
print("\n}  // namespace golden")
