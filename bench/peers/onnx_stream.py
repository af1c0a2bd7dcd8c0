"""The streaming cases of unroll_bench in ONNX Runtime: one node, one step of one stream.

    onnx_stream.py [--filter REGEX] [--threads N] [--seconds S]

Needs onnx, onnxruntime and numpy. An RNN, LSTM or GRU node of H inputs and H units runs a sequence
of one step, with its state bound to memory that two buffers take turns in, so that a step copies
nothing. Prints one JSON object a line: the median as us, the best, the 99th percentile and the worst
of all steps, each timed by itself.
"""

import argparse
import json
import multiprocessing
import re
import time

import numpy as np

GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


def make_model(kind, size):
    """Bytes of the model and the names of its states. Made in a process of its own before
    onnxruntime is loaded: builds of the two that share a library do not bear each other."""
    import onnx
    from onnx import TensorProto, helper

    generator = np.random.default_rng(1)
    gates = GATES[kind] * size
    bound = 1 / np.sqrt(size)
    uniform = lambda *shape: generator.uniform(-bound, bound, shape).astype(np.float32)
    weights = {"W": uniform(1, gates, size), "R": uniform(1, gates, size), "B": uniform(1, 2 * gates)}
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    shape = [1, 1, size]
    node = helper.make_node(
        kind,
        ["x", "W", "R", "B", ""] + states,
        ["y"] + ["next_" + s for s in states],
        hidden_size=size,
        **({"linear_before_reset": 1} if kind == "GRU" else {}),
    )
    value = lambda name, of: helper.make_tensor_value_info(name, TensorProto.FLOAT, of)
    graph = helper.make_graph(
        [node],
        kind,
        [value(name, shape) for name in ["x"] + states],
        [value("y", [1, 1, 1, size])] + [value("next_" + s, shape) for s in states],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString(), states


def make_step(model, states, size, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    zeros = lambda *shape: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
    x = onnxruntime.OrtValue.ortvalue_from_numpy(
        np.random.default_rng(2).standard_normal((1, 1, size)).astype(np.float32)
    )
    y = zeros(1, 1, 1, size)
    buffers = [[zeros(1, 1, size) for _ in states] for _ in range(2)]
    bindings = []
    for turn in range(2):
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", x)
        binding.bind_ortvalue_output("y", y)
        for k, state in enumerate(states):
            binding.bind_ortvalue_input(state, buffers[turn][k])
            binding.bind_ortvalue_output("next_" + state, buffers[1 - turn][k])
        bindings.append(binding)
    turn = 0

    # The bound session itself: what Python's wrapper around it does is not the runtime's.
    run = session._sess.run_with_iobinding
    bound = [binding._iobinding for binding in bindings]

    def step():
        nonlocal turn
        run(bound[turn], None)
        turn = 1 - turn

    step.owns = session, bindings, x, y, buffers  # what is bound does not keep itself alive
    return step, len(states) * size * 4


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--filter", default=".")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3)
    arguments = parser.parse_args()
    wanted = re.compile(arguments.filter)
    sizes = {f"stream {kind} {size} B1": (kind, size) for kind in GATES for size in [64, 256]}
    with multiprocessing.get_context("fork").Pool(1) as pool:
        models = {name: pool.apply(make_model, one) for name, one in sizes.items()
                  if wanted.search(name)}
    for name, (model, states) in models.items():
        step, state_bytes = make_step(model, states, sizes[name][1], arguments.threads)
        for _ in range(200):
            step()
        times = []
        clock = time.perf_counter_ns
        end = clock() + int(arguments.seconds * 1e9)
        while clock() < end:
            begin = clock()
            step()
            times.append(clock() - begin)
        times.sort()
        n = len(times)
        at = lambda i: float(f"{times[i] / 1e3:.4g}")
        line = {"case": name, "threads": arguments.threads, "us": at(n // 2), "us_best": at(0),
                "us_p99": at(n - 1 - n // 100), "us_worst": at(n - 1),
                "state_bytes": state_bytes}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
