"""The streaming cases of unroll_bench in ONNX Runtime: one node, one step of one stream.

    onnx_stream.py [--filter REGEX] [--threads N] [--seconds S]

Needs onnx, onnxruntime and numpy. An RNN, LSTM or GRU node of H inputs and H units runs a sequence
of one step, in two ways: bound, its state in memory that two buffers take turns in, so that a step
copies nothing; and plain, session.run with NumPy arrays, the state that it returns given back to it.
Prints one JSON object a line: the median as us, the best, the 99th percentile and the worst of all
bound steps, and the same of plain ones as us_plain, us_plain_best, ...; each step is timed by itself.
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


def make_session(model, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def input_of(size):
    return np.random.default_rng(2).standard_normal((1, 1, size)).astype(np.float32)


def plain_step(session, states, size):
    x = input_of(size)
    carried = [np.zeros((1, 1, size), np.float32) for _ in states]

    def step():
        nonlocal carried
        y, *carried = session.run(None, {"x": x, **dict(zip(states, carried))})

    return step


def bound_step(session, states, size):
    import onnxruntime

    zeros = lambda *shape: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))
    x = onnxruntime.OrtValue.ortvalue_from_numpy(input_of(size))
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
    return step


def timed(step, seconds, unit):
    """The figures of steps that are run for so long."""
    for _ in range(200):
        step()
    times = []
    clock = time.perf_counter_ns
    end = clock() + int(seconds * 1e9)
    while clock() < end:
        begin = clock()
        step()
        times.append(clock() - begin)
    times.sort()
    n = len(times)
    at = lambda i: float(f"{times[i] / 1e3:.4g}")
    return {unit: at(n // 2), unit + "_best": at(0), unit + "_p99": at(n - 1 - n // 100),
            unit + "_worst": at(n - 1)}


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
        size = sizes[name][1]
        session = make_session(model, arguments.threads)
        line = {"case": name, "threads": arguments.threads,
                **timed(bound_step(session, states, size), arguments.seconds, "us"),
                **timed(plain_step(session, states, size), arguments.seconds, "us_plain"),
                "state_bytes": len(states) * size * 4}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
