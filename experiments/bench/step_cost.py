"""Arithmetic and memory of a whole training step with DiffKD; runs none.

    PYTHONPATH=. python experiments/bench/step_cost.py imagenet:r34-r18 --memory

Floating-point operations are those of the program before optimisation, counted by XLA
(a multiply-add is two). Memory is what the program, compiled for the platform at hand,
holds at once on one device: arguments (state, teacher, batch) and temporaries.
"""

import argparse

from pairs import ALL, run_of, shapes_for

GIB = 2**30


def lower(name, batch, method="diffkd"):
    """One training step of ``<config>:<pair>`` at full size, not compiled yet."""
    run = run_of(name, batch, method)
    return run.step.lower(*shapes_for(run))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=ALL, help="<config>:<pair>")
    parser.add_argument("--batch", type=int, default=32, help="pictures a device")
    parser.add_argument("--memory", action="store_true", help="compile, for memory")
    arguments = parser.parse_args()
    batch = arguments.batch
    print("| pair | GFLOP a picture | undistilled | arguments, GiB | temporary, GiB |")
    print("|---|---|---|---|---|")
    for name in arguments.names:
        steps = [lower(name, batch, method) for method in ("diffkd", "none")]
        cells = [f"{s.cost_analysis()['flops'] / batch / 1e9:.3g}" for s in steps]
        if arguments.memory:
            memory = steps[0].compile().memory_analysis()
            held, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
            cells += [f"{held / GIB:.2f}", f"{temporary / GIB:.2f}"]
        print(f"| {name} | {' | '.join(cells + [''] * (4 - len(cells)))} |", flush=True)


if __name__ == "__main__":
    main()
