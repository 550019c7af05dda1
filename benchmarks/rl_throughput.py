"""DQN's environment steps per second: trilab against Stable-Baselines3 and a plain loop, at equal hyperparameters.

    python benchmarks/rl_throughput.py [--repeats 3] [--steps 60000] [--threads 1]
    python benchmarks/rl_throughput.py --solve [--repeats 1]

CartPole-v1 at CleanRL's settings (`experiment=rl/dqn_cartpole`), with 1 environment and with 8, and ten agents of
trilab as one batch. Every measurement is a process of its own; they take turns, forwards and backwards, so that a
machine that slows down slows all of them. trilab runs as a user runs it, `trilab train` with everything logged to
MLflow, in a temporary folder; the others log nothing.

The rate is the steady one: from the first update on, evaluation outside the clock. With --solve: the training time and
the steps to a mean greedy return of 475 over 100 episodes, played every 20,000 steps; of ten agents, those at which
five of them were there.

Stable-Baselines3 is measured where it is installed: pip install -c constraints.txt -r benchmarks/requirements-rl.txt
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl_contenders import EVAL_EPISODES, EVAL_EVERY, LEARNING_STARTS, THRESHOLD

AGENTS = 10
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    kind: str
    envs: int
    agents: int = 1

    @property
    def title(self) -> str:
        name = {"sb3": "Stable-Baselines3", "plain": "plain loop"}.get(self.kind, self.kind)
        environments = f"{self.envs} environment{'s' if self.envs > 1 else ''}"
        return f"{name}, {environments}" if self.agents == 1 else f"{name}, {self.agents} agents x {environments}"


Result = dict[str, Any]


def measure(contender: Contender, options: argparse.Namespace, seed: int) -> Result:
    """`env_steps_per_s` of all agents together; `solved_s` and `solved_steps`, the first None where it was not."""
    if contender.kind == "trilab":
        return _trilab(contender, options, seed)
    command = [sys.executable, str(HERE / "rl_contenders.py"), contender.kind, f"--envs={contender.envs}"]
    command += [f"--steps={options.steps}", f"--threads={options.threads}", f"--seed={seed}"]
    command += ["--solve"] if options.solve else []
    return dict(json.loads(_run(command, Path.cwd()).splitlines()[-1]))


def _trilab(contender: Contender, options: argparse.Namespace, seed: int) -> Result:
    threads = options.threads if contender.agents == 1 else options.batch_threads
    members = list(range(seed, seed + contender.agents))
    which = f"seed={seed}" if contender.agents == 1 else f"trainer.seeds={members}".replace(" ", "")
    with tempfile.TemporaryDirectory() as name:
        uri = f"sqlite:///{Path(name) / 'mlflow.db'}"
        command = [sys.executable, "-m", "trilab", "train", "experiment=rl/dqn_cartpole", which, "test=false"]
        command += ["accelerator=cpu", f"accelerator.threads={threads}", f"data.num_envs={contender.envs}"]
        command += [f"data.total_env_steps={options.steps}", f"data.env_steps_per_epoch={EVAL_EVERY}"]
        command += [f"data.val_episodes={EVAL_EPISODES if options.solve else 10}", f"tracking.uri={uri}"]
        _run(command, Path(name))
        return _logged(uri, contender.agents)


def _logged(uri: str, agents: int) -> Result:
    """What trilab's run, and for a batch its agents' runs, have logged."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "rl/dqn_cartpole"]
    runs = client.search_runs([experiment.experiment_id])
    [whole] = [run for run in runs if "perf/env_steps_per_s" in run.data.metrics]
    each = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == whole.info.run_id] or [whole]
    if len(each) != agents:
        sys.exit(f"expected the runs of {agents} agents, found {len(each)}")
    spent = client.get_metric_history(whole.info.run_id, "perf/epoch_s")  # of training, evaluation not counted
    reached = sorted(step for run in each if (step := _solved_at(client, run.info.run_id)) is not None)
    result: Result = {"env_steps_per_s": whole.data.metrics["perf/env_steps_per_s"], "solved_s": None}
    if 2 * len(reached) >= agents:
        result["solved_steps"] = reached[(agents - 1) // 2]
        result["solved_s"] = sum(point.value for point in spent if point.step <= result["solved_steps"])
    return {**result, "solved_agents": len(reached)}


def _solved_at(client: Any, run_id: str) -> int | None:
    """Environment steps of an agent at its first validation at the threshold."""
    history = client.get_metric_history(run_id, "val/return_mean")
    return min((int(point.step) for point in history if point.value >= THRESHOLD), default=None)


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def table(results: dict[Contender, list[Result]], solve: bool) -> str:
    """Medians, ranges, and ratios of measurements that were made in the same turn."""
    head = ["", "env steps/s, median", "min to max", "against the plain loop", "against Stable-Baselines3"]
    lines = [[*head, "s to 475, median", "env steps to 475, median", "agents there"] if solve else head]
    for contender, found in results.items():
        rates = [result["env_steps_per_s"] for result in found]
        row = [contender.title, f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f} to {max(rates):,.0f}"]
        for other in ("plain", "sb3"):
            base = results.get(Contender(other, contender.envs))
            ratios = [a / b["env_steps_per_s"] for a, b in zip(rates, base, strict=True)] if base else []
            row.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        if solve:
            solved = [result for result in found if result["solved_s"] is not None]
            for key, form in (("solved_s", ".1f"), ("solved_steps", ",.0f")):
                values = [result[key] for result in solved]
                row.append(f"{statistics.median(values):{form}}" if values else "")
            agents = sum(result.get("solved_agents", result["solved_s"] is not None) for result in found)
            row.append(f"{agents} of {contender.agents * len(found)}")
        lines.append(row)
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=None, help="turns; default 3, with --solve 1")
    parser.add_argument("--steps", type=int, default=None, help="of an agent; default 60,000, with --solve 500,000")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads of a lone agent")
    parser.add_argument("--batch-threads", type=int, default=os.cpu_count(), help="and of ten at once; default: all")
    parser.add_argument("--envs", type=int, nargs="+", default=None, help="default: 1 and 8, with --solve 1")
    parser.add_argument("--solve", action="store_true", help="also the time to a mean greedy return of 475")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.solve else 3)
    options.steps = options.steps or (500_000 if options.solve else 60_000)
    envs = options.envs or ([1] if options.solve else [1, 8])
    if options.steps < LEARNING_STARTS + EVAL_EVERY or options.steps % EVAL_EVERY:
        parser.error(f"--steps must be a multiple of {EVAL_EVERY} above {LEARNING_STARTS + EVAL_EVERY}")
    kinds = ["plain", "sb3", "trilab"]
    if importlib.util.find_spec("stable_baselines3") is None:
        kinds.remove("sb3")
        print("without Stable-Baselines3, which is not installed: ", end="")
        print("pip install -c constraints.txt -r benchmarks/requirements-rl.txt")
    contenders = [Contender(kind, count) for count in envs for kind in kinds]
    contenders.append(Contender("trilab", 1, AGENTS))
    results: dict[Contender, list[Result]] = {contender: [] for contender in contenders}
    for turn in range(options.repeats):
        for contender in contenders if turn % 2 == 0 else reversed(contenders):
            result = measure(contender, options, seed=turn + 1)
            results[contender].append(result)
            print(f"turn {turn + 1}: {contender.title}: {result['env_steps_per_s']:,.0f} env steps/s", flush=True)
    threads = f"torch threads: {options.threads}, for ten agents {options.batch_threads}"
    print(f"\n{os.cpu_count()} cores, {threads}; {options.repeats} turns of {options.steps:,} steps an agent\n")
    print(table(results, options.solve))


if __name__ == "__main__":
    main()
