"""One loop for all stages: steps, validation, checkpoints, exact resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from focusnet.devices import DTYPES, is_out_of_memory, keep_memory, resolve_device
from focusnet.errors import Cancelled, FocusNetError, Terminated
from focusnet.networks.focusnet import FocusNetV2
from focusnet.preprocessing import Intensity
from numpy.typing import NDArray

from focusnet_training.assembly import (
    build_autoencoder,
    build_model,
    check_shares,
    check_small,
    check_validation,
    chosen_organs,
    chosen_small,
    mean_voxels,
    training_precision,
)
from focusnet_training.augmentation import augment_intensity, cut_field_of_view, extract_chunk, random_affine
from focusnet_training.checkpoint import load_checkpoint, save_checkpoint
from focusnet_training.config import StageConfig, StageName, TrainingConfig
from focusnet_training.datasets import Dataset, PreparedCase, prepare
from focusnet_training.distributed import Processes
from focusnet_training.guard import best_file, did_harm, sos_had_learned, start_file, teaches_sos, undo
from focusnet_training.identity import config_difference, data_difference, data_identity
from focusnet_training.initial_weights import load_initial
from focusnet_training.learners import Learner, make_learners, optimizer_states, restore_optimizers, schedule
from focusnet_training.losses import class_weights
from focusnet_training.monitor import Monitor, Position, Report, Step, writing
from focusnet_training.sampling import ChunkSampler, step_generator
from focusnet_training.stages import STAGES, Batch, LossFunction, Networks, Task
from focusnet_training.stopping import only_run
from focusnet_training.validation import ValidationResult, validate, validate_shapes


@dataclass(frozen=True)
class TrainingOptions:
    """How a run is carried out; nothing here changes what is learned on one device.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda[:n]`` or ``mps``.
        precision: ``auto``, ``fp32``, ``bf16``.
        max_hours: Stop cleanly after this time; resume goes on.
        initial: Weights to start from, see `focusnet_training.initial_weights`.
        report: Told the status every few seconds, see `focusnet_training.monitor`.
        pause: Asked after every step; where it says yes, the run ends as at the end of its time, resume goes on.
        processes: Those that train together; each stage's ``accumulate`` is a multiple of their number.
        save_every_s: Longest time of training that a crash may cost.
        pictures: Draw contours at each validation.
    """

    device: str = "auto"
    precision: str = "auto"
    max_hours: float = math.inf
    initial: Path | None = None
    report: Report | None = None
    pause: Callable[[], bool] | None = None
    processes: Processes = Processes()
    save_every_s: float = 60.0
    pictures: bool = True


class Trainer:
    """Trains one model through its stages in a run folder.

    The folder holds ``config.json``, ``last.pt``, ``best-STAGE.pt`` and what `Monitor` writes.

    Args:
        config: What is trained.
        dataset: Cases and split.
        folder: Run folder.
        options: Device and limits.
        cache: Folder of prepared cases, shared between runs if wanted.

    Raises:
        FocusNetError: ``E_DATASET``, ``E_CONFIG`` (unknown organs), ``E_PRECISION``, ``E_OUTPUT_WRITE`` (run folder or
            cache).
    """

    def __init__(
        self,
        config: TrainingConfig,
        dataset: Dataset,
        folder: Path,
        options: TrainingOptions = TrainingOptions(),
        cache: Path | None = None,
    ) -> None:
        self.config, self.folder, self.options = config, folder, options
        self.processes = options.processes
        check_shares(config, self.processes.count)
        self.initial_sha256: str | None = None
        self.sos_learned: bool | None = False  # before this stage; None where the weights it started from don't tell
        self.device = resolve_device(self.processes.device(options.device))
        self.precision = training_precision(options.precision, self.device)
        if self.device.type == "cpu":
            keep_memory()
        self.organs = chosen_organs(config, dataset)
        self.training, self.validation = self._prepare(dataset, cache or folder / "cache")
        self.small = chosen_small(config, self.training, self.organs)
        self.case_names = (*dataset.training, *dataset.validation)
        self.data = self.processes.from_first(
            lambda: data_identity(self.training, self.validation, self.organs, self.small)
        )
        torch.manual_seed(config.seed)
        self.model = build_model(config, len(self.organs), len(self.small)).to(self.device)
        if self.device.type == "cpu":
            self.model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.autoencoder = build_autoencoder(config)
        if self.autoencoder is not None:
            self.autoencoder.to(self.device)
        self.networks = Networks(self.model, self.autoencoder)
        if options.initial is not None:
            initial = load_initial(options.initial, self.networks, self.organs, self.small)
            self.initial_sha256, self.sos_learned = initial.sha256, initial.sos_learned
        self.ema = deepcopy(self.model).eval().requires_grad_(False) if config.ema_decay else None
        self.intensity = Intensity(config.data.window_hu)
        self.task = Task(
            torch.as_tensor(
                class_weights(mean_voxels(self.training, len(self.organs)), config.loss.weight_range),
                dtype=torch.float32,
                device=self.device,
            ),
            tuple(self.organs.index(o) + 1 for o in self.small),
            config.network.roi_shape_zyx,
            config.loss,
            config.shape,
        )
        self.stages = config.schedule
        self.stage_index, self.step, self.skipped, self.best = 0, 0, 0, -math.inf
        self.start: float | None = None
        self.due, self.stale, self.waited_s = False, 0, 0.0
        self.monitor = Monitor(folder, self.stages, options.report, writes=self.processes.is_first)
        self._optimizer_states: dict[str, Any] | None = None
        self._started = time.monotonic()

    @property
    def averaged(self) -> FocusNetV2:
        """The weights that are validated and shipped: the moving average where there is one."""
        return self.model if self.ema is None else self.ema

    def run(self, *, resume: bool = False, until: str | None = None, begin: Callable[[], None] | None = None) -> bool:
        """Train the stages in order.

        Args:
            resume: Go on from ``last.pt``.
            until: Stop after this stage.
            begin: Called in the first process once nothing refuses the run any more, before the first step.

        Returns:
            Whether all stages asked for are finished (False when it was paused or its time ended first).

        Raises:
            FocusNetError: ``E_CONFIG`` (the cases don't show what a stage learns), ``E_RUN_EXISTS``, ``E_RUN_BUSY``,
                ``E_RESUME_MISMATCH``, ``E_CHECKPOINT``, ``E_DIVERGED``, ``E_OUT_OF_MEMORY``, ``E_CHECKPOINT_WRITE`` and
                ``E_OUTPUT_WRITE`` (disk full or read-only).
        """
        if not self.processes.is_first:
            return self._run(resume, until, None)
        with only_run(self.folder):
            return self._run(resume, until, begin)

    def _run(self, resume: bool, until: str | None, begin: Callable[[], None] | None) -> bool:
        names = [stage.name for stage in self.stages]
        if until is not None and until not in names:
            raise FocusNetError("E_CONFIG", f"The run has no stage '{until}'; it has {', '.join(names)}.")
        end = len(names) if until is None else names.index(until) + 1
        check_small(names[:end], self.training, self.organs, self.small)
        check_validation(names[:end], self._validated, self.organs, self.small)
        last = self.folder / "last.pt"
        if resume:
            self._restore(self.processes.from_first(lambda: load_checkpoint(last)))
        elif self.processes.from_first(last.exists):
            raise FocusNetError("E_RUN_EXISTS", f"{self.folder.name} holds a run; resume it or give a new folder.")
        elif self.processes.is_first:
            with writing("config.json"):
                (self.folder / "config.json").write_text(self.config.model_dump_json(indent=1), "utf-8")
        if begin is not None:
            begin()
        try:
            return self._run_stages(end)
        except (KeyboardInterrupt, Cancelled, Terminated):
            self.monitor.last_word("paused", "interrupted; resume goes on from the last checkpoint")
            raise
        except Exception as error:
            refusal = _out_of_memory(self.device) if is_out_of_memory(error) else None
            self.monitor.last_word("failed", str(refusal or error))
            if refusal is not None:
                raise refusal from error
            raise
        finally:
            self.monitor.close()

    def _run_stages(self, end: int) -> bool:
        self.monitor.position = self._position
        self.monitor.tell("training")
        while self.stage_index < end:
            stage = self.stages[self.stage_index]
            if not self._run_stage(stage):
                return False
            self._finish_stage(stage)
        if end == len(self.stages):
            self.monitor.tell("finished")
        else:
            self.monitor.tell("paused", f"stage {self.stages[end - 1].name} is finished, the next are still to come")
        return True

    def _run_stage(self, config: StageConfig) -> bool:
        stage = STAGES[config.name]
        adversary = self.config.shape.constraint == "adversarial"
        learners = make_learners(stage, self.networks, config, adversary=adversary)
        if self._optimizer_states is not None:
            restore_optimizers(learners, self._optimizer_states)
            self._optimizer_states = None
        if stage.guarded and self.start is None:
            self._remember_start(config)
        sampler = ChunkSampler(
            self.training, stage.focus, self.task.small_classes, self.config.data.chunk_zyx, config.foreground
        )
        saved = time.monotonic()
        while self.due or not self._is_over(config):
            if not self.due:
                self._step(stage.losses, sampler, learners, config)
            validates = self.due
            if validates:
                self._save(learners)  # a crash in the validation costs no step
                self._validate(config)
            pauses = not self._is_over(config) and self._must_pause()
            if validates or pauses or time.monotonic() - saved > self.options.save_every_s:
                self._save(learners)
                saved = time.monotonic()
            if pauses:
                self.monitor.tell("paused", "stopped on request or at the end of its time; resume goes on")
                return False
        return True

    def _is_over(self, config: StageConfig) -> bool:
        return self.step == config.steps or 0 < config.patience <= self.stale

    @property
    def _position(self) -> Position:
        return Position(self.stage_index, self.step)

    def _must_pause(self) -> bool:
        late = time.monotonic() - self._started > self.options.max_hours * 3600
        return self.processes.any(late or (self.options.pause is not None and self.options.pause()))

    def _step(
        self, losses: LossFunction, sampler: ChunkSampler, learners: dict[str, Learner], config: StageConfig
    ) -> None:
        began, waited_s, rate = time.perf_counter(), self.waited_s, config.learning_rate * schedule(self.step, config)
        terms = self._train_step(losses, sampler, learners, config)
        self.step += 1
        self.due = self.step % config.validate_every == 0 or self.step == config.steps
        done = Step(terms, rate, self.skipped, time.perf_counter() - began, self.waited_s - waited_s)
        self.monitor.step(self._position, done)

    def _train_step(
        self, losses: LossFunction, sampler: ChunkSampler, learners: dict[str, Learner], config: StageConfig
    ) -> dict[str, float]:
        for learner in learners.values():
            learner.start(schedule(self.step, config))
        statistics = self.networks.running_statistics()
        terms: dict[str, float] = {}
        for part in self.processes.share(config.accumulate):
            rng = step_generator(self.config.seed, config.name, self.step * config.accumulate + part)
            began = time.perf_counter()
            batch = self._batch(sampler, rng)
            self.waited_s += time.perf_counter() - began
            with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
                values = losses(self.networks, batch, self.task, rng)
                total = torch.stack(list(values.values())).sum() / config.accumulate
            total.backward()
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + float(value.detach()) / config.accumulate
        terms = self.processes.sum_terms(terms)
        for learner in learners.values():
            self.processes.sum_gradients(learner.parameters)
        self.processes.average_statistics(self.model)
        # One backward pass serves both players: each loss reaches the weights of its own player alone.
        norms = [float(learner.clip(self.config.gradient_clip)) for learner in learners.values()]
        if not all(map(math.isfinite, (*terms.values(), *norms))):
            for buffer, before in statistics:
                buffer.copy_(before)
            self.skipped += 1
            if self.skipped > self.config.max_skipped_steps:
                raise FocusNetError(
                    "E_DIVERGED",
                    f"{self.skipped} steps gave no finite loss; lower the learning rate of stage {config.name} "
                    "and resume from the last checkpoint.",
                )
            return {}
        for learner in learners.values():
            learner.optimizer.step()
        if self.ema is not None:
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                for mine, new in zip(self.ema.state_dict().values(), self.model.state_dict().values(), strict=True):
                    if mine.is_floating_point():
                        mine.lerp_(new, 1 - decay)
                    else:
                        mine.copy_(new)
        return terms

    def _batch(self, sampler: ChunkSampler, rng: np.random.Generator) -> Batch:
        case, centre = sampler.draw(rng)
        config = self.config.augmentation
        ct, labels = extract_chunk(
            torch.from_numpy(np.array(case.ct)).to(self.device),
            torch.from_numpy(np.array(case.labels)).to(self.device),
            centre + rng.uniform(-1, 1, 3) * (0, *(config.translation_mm / _yx(case))),
            random_affine(config, rng),
            case.geometry.spacing_zyx,
            self.config.data.chunk_zyx,
        )
        ct, labels, parts = cut_field_of_view(ct, labels, config, rng)
        ct = augment_intensity(ct, case.geometry.spacing_zyx, config, rng)
        low, high = self.intensity.window_hu
        ct = (ct.clamp(low, high) - low) * (2.0 / (high - low)) - 1.0
        if self.device.type == "cpu":
            ct = ct.contiguous(memory_format=torch.channels_last_3d)
        return Batch(ct, labels, torch.from_numpy(case.annotated).to(self.device), case.geometry.spacing_zyx, parts)

    @property
    def _validated(self) -> Sequence[PreparedCase]:
        return self.validation[: self.config.validation_cases]

    def _score(self, stage: StageName) -> ValidationResult:
        if stage == "aae":
            assert self.autoencoder is not None
            return validate_shapes(
                self.autoencoder,
                self._validated,
                self.organs,
                self.task.small_classes,
                device=self.device,
                processes=self.processes,
            )
        return validate(
            self.averaged,
            self._validated,
            self.organs,
            self.task.small_classes,
            stage=stage,
            intensity=self.intensity,
            chunk_zyx=self.config.data.chunk_zyx,
            device=self.device,
            precision=self.precision,
            processes=self.processes,
            show=self._show,
        )

    def _show(self, number: int, case: PreparedCase, predicted: NDArray[np.int64]) -> None:
        if number == 0 and self.options.pictures:
            self.monitor.draw(self._position, case, predicted, self.organs)

    def _validate(self, config: StageConfig) -> None:
        self.monitor.tell("validating")
        result = self._score(config.name)
        self.stale += 1
        if result.score > self.best:
            self.best, self.stale = result.score, 0
            learned = True if teaches_sos(config.name) else self.sos_learned
            self._save_weights(best_file(self.folder, config.name), self.best, learned)
        self.monitor.validated(self._position, result, self.best)
        self.due = False

    def _remember_start(self, config: StageConfig) -> None:
        """Keep what a guarded stage starts from, and its score: that of S-Net alone where SOS-Net has not learned."""
        result = self._score(config.name if self.sos_learned else "snet")
        if self.sos_learned is None:
            both = self._score(config.name)
            self.sos_learned = both.score > result.score
            result = both if self.sos_learned else result
        self.start = result.score
        self._save_weights(start_file(self.folder, config.name), self.start, self.sos_learned)
        self.monitor.validated(self._position, result, self.start)

    def _finish_stage(self, config: StageConfig) -> None:
        """Go on from the best validation checkpoint of the stage, or from its start where the stage did harm."""
        best, kept = self.processes.from_first(lambda: self._best_or_start(config))
        if kept and teaches_sos(config.name):
            self.sos_learned = True
        for model in (self.model, self.ema):
            if model is not None:
                model.load_state_dict(best["model"])
        if self.autoencoder is not None:
            self.autoencoder.load_state_dict(best["autoencoder"])
        self.stage_index, self.step, self.stale = self.stage_index + 1, 0, 0
        self.best, self.start = -math.inf, None
        self._save({})
        self.monitor.position = self._position
        if self.processes.is_first:
            start_file(self.folder, config.name).unlink(missing_ok=True)

    def _best_or_start(self, config: StageConfig) -> tuple[dict[str, Any], bool]:
        """The checkpoint to go on from, and whether it is what the stage learned."""
        best, keep = best_file(self.folder, config.name), bool(self.sos_learned)
        if not best.exists():  # undone before a crash
            return undo(self.folder, config.name, keep=keep), False
        if not did_harm(self.folder, config.name, self.config.max_fall):
            return load_checkpoint(best), True
        text = (
            f"undone: the validation score fell from {self.start:.4f} to {self.best:.4f}; "
            "the weights it started from are kept"
        )
        self.monitor.note(self._position, text)
        return undo(self.folder, config.name, keep=keep), False

    def _prepare(self, dataset: Dataset, cache: Path) -> tuple[list[PreparedCase], list[PreparedCase]]:
        names, spacing = (*dataset.training, *dataset.validation), self.config.data.spacing_xyz
        with writing("the prepared cases"):
            self.folder.mkdir(parents=True, exist_ok=True)
            prepare(dataset, [names[n] for n in self.processes.share(len(names))], self.organs, spacing, cache)
            self.processes.wait()
            training = prepare(dataset, dataset.training, self.organs, spacing, cache)
            return training, prepare(dataset, dataset.validation, self.organs, spacing, cache)

    def _identity(self) -> dict[str, Any]:
        return {"config": self.config.model_dump_json(), "data": self.data, "initial": self.initial_sha256}

    def _save_weights(self, path: Path, score: float, sos_learned: bool | None) -> None:
        if not self.processes.is_first:
            return
        save_checkpoint(
            path,
            {
                "model": self.averaged.state_dict(),
                "autoencoder": None if self.autoencoder is None else self.autoencoder.state_dict(),
                "score": score,
                "step": self.step,
                "sos_learned": sos_learned,
                **self._identity(),
            },
        )

    def _save(self, learners: dict[str, Learner]) -> None:
        if not self.processes.is_first:
            return
        save_checkpoint(
            self.folder / "last.pt",
            {
                **self._identity(),
                "stage": self.stage_index,
                "step": self.step,
                "skipped": self.skipped,
                "best": self.best,
                "start": self.start,
                "sos_learned": self.sos_learned,
                "due": self.due,
                "stale": self.stale,
                "losses": self.monitor.losses,
                "seconds": self.monitor.seconds,
                "model": self.model.state_dict(),
                "autoencoder": None if self.autoencoder is None else self.autoencoder.state_dict(),
                "ema": None if self.ema is None else self.ema.state_dict(),
                "optimizers": optimizer_states(learners),
            },
        )

    def _restore(self, state: dict[str, Any]) -> None:
        try:
            old = TrainingConfig.model_validate_json(state["config"])
            difference = config_difference(old, self.config)
            difference += data_difference(state["data"], self.data, self.case_names)
        except (KeyError, TypeError, ValueError) as error:
            raise FocusNetError(
                "E_CHECKPOINT", "last.pt was written by another version; finish the run with that, or start anew."
            ) from error
        if self.initial_sha256 not in (None, state["initial"]):
            difference.append("the weights it starts from")
        if difference:
            raise FocusNetError(
                "E_RESUME_MISMATCH",
                f"The run was started with others ({'; '.join(difference)}); give what it was started with, or a new "
                "folder.",
            )
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.autoencoder is not None:
            self.autoencoder.load_state_dict(state["autoencoder"])
        self.stage_index, self.step, self.start = state["stage"], state["step"], state["start"]
        self.skipped, self.best, self.initial_sha256 = state["skipped"], state["best"], state["initial"]
        self._optimizer_states = state["optimizers"] or None
        self.due, self.stale = state["due"], state["stale"]
        names = [stage.name for stage in self.stages]
        self.sos_learned = self.processes.from_first(lambda: sos_had_learned(state, self.folder, names))
        self.monitor.resume(self._position, state["losses"], state["seconds"], due=self.due)


def _out_of_memory(device: torch.device) -> FocusNetError:
    return FocusNetError(
        "E_OUT_OF_MEMORY",
        f"The memory of {device} does not suffice; close other programs and resume, or train anew with a smaller "
        "data.chunk_zyx.",
    )


def _yx(case: PreparedCase) -> np.ndarray:
    return np.asarray(case.geometry.spacing_zyx[1:])
