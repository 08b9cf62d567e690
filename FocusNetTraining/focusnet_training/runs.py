"""A training run from the outside: start or resume it, and make a bundle of what it learned."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from focusnet.bundle import Architecture, Bundle, ModelSpec, holds_bundle, load_bundle, save_bundle
from focusnet.console import tell as tell_user
from focusnet.errors import FocusNetError
from focusnet.evaluation.overlap import dice
from focusnet.inference import Predictor
from focusnet.io.atomic import new_folder

from focusnet_training.assembly import build_model, network_arguments
from focusnet_training.checkpoint import load_checkpoint
from focusnet_training.config import TrainingConfig
from focusnet_training.datasets import Dataset, prepare, read_case, read_dataset
from focusnet_training.distributed import connected
from focusnet_training.guard import best_file, did_harm
from focusnet_training.identity import data_difference, data_identity
from focusnet_training.integrity import check_once
from focusnet_training.model_card import Measured, ModelCard, OrganScore, reliability, write_card
from focusnet_training.monitor import read_log, writing
from focusnet_training.stopping import StopRequests
from focusnet_training.trainer import Trainer, TrainingOptions
from focusnet_training.validation import overlap

RUN_FILE = "run.json"
INTEGRITY_FILE = "integrity.json"
Told = Callable[[str], None]


def train(
    config: TrainingConfig,
    data: Path,
    folder: Path,
    options: TrainingOptions = TrainingOptions(),
    *,
    resume: bool = False,
    until: str | None = None,
    command: str = "",
) -> bool:
    """Train on a data set in nnU-Net v2 raw layout; with the other processes where ``torchrun`` started several.

    Cases that fail the integrity check are named and left out.

    Args:
        config: What is trained.
        data: Folder of the data set.
        folder: Run folder, made where it is missing.
        options: Device and limits.
        resume: Go on from the last checkpoint of ``folder``.
        until: Stop after this stage.
        command: What repeats the run, for the model card.

    Returns:
        Whether all stages asked for are finished.

    Raises:
        FocusNetError: See `Trainer`; ``E_CHECKPOINT`` before anything is done when there is none to go on from.
        Cancelled: After a stop that `StopRequests` were asked for; the checkpoint is whole, a resume goes on.
        KeyboardInterrupt: The same after Ctrl-C.
    """
    with connected() as processes, StopRequests(folder, first=processes.is_first) as stop:
        if resume and not processes.from_first((folder / "last.pt").exists):
            raise FocusNetError(
                "E_CHECKPOINT",
                f"'{folder.name}' has no checkpoint (last.pt) to go on from; check --out, or start without --resume.",
            )
        found = read_dataset(data, config.data.fold)
        excluded = processes.from_first(lambda: check_once(found, folder / INTEGRITY_FILE)).excluded
        if processes.is_first:
            for case, reason in excluded.items():
                tell_user(f"{case} is left out: {reason}")
        dataset = found.without(excluded)
        pause = options.pause
        options = replace(options, processes=processes, pause=lambda: stop.asked() or (pause is not None and pause()))
        trainer = Trainer(config, dataset, folder, options)
        facts = {
            "data": str(data.resolve()),
            "organs": trainer.organs,
            "small_organs": trainer.small,
            "device": str(trainer.device),
            "processes": processes.count,
            "precision": trainer.precision,
            "torch": torch.__version__,
            "command": command,
        }

        def begin() -> None:
            with writing(RUN_FILE):
                (folder / RUN_FILE).write_text(json.dumps(facts, indent=1), "utf-8")

        finished = trainer.run(resume=resume, until=until, begin=begin)
    if not finished:
        stop.answer()
    return finished


@dataclass(frozen=True)
class BundleOptions:
    """What a bundle says about itself.

    Attributes:
        description: One sentence for a list of models.
        notes: Further paragraphs of the model card.
        grids: Working grids whose mean answer the bundle takes, 1 or 4.
        device: Device of the validation.
    """

    description: str = ""
    notes: str = ""
    grids: Literal[1, 4] = 1
    device: str = "auto"


def make_bundle(
    run: Path, output: Path, options: BundleOptions = BundleOptions(), *, overwrite: bool = False, tell: Told = print
) -> Bundle:
    """Make a bundle of the last stage of a run that did no harm and measure it on the validation cases.

    The measurement runs the shipped pipeline from the files' own grids and back, not the trainer's validation.

    Args:
        run: Folder of a run.
        output: Folder of the bundle.
        options: Texts of the bundle.
        overwrite: Replace a bundle that is there.
        tell: Told a line per validation case.

    Raises:
        FocusNetError: ``E_RUN`` when the folder holds no finished stage, or other organs, cases or another split than
            it was trained with are there now; ``E_DATASET`` when its data are gone; ``E_OUTPUT_EXISTS``.
    """
    config, facts = read_run(run)
    stage, state = _last_stage(run, config)
    dataset = read_dataset(Path(facts["data"]), config.data.fold)
    dataset = dataset.without(check_once(dataset, run / INTEGRITY_FILE).excluded)
    if any(list(facts[key]) != list(state["data"][key]) for key in ("organs", "small_organs")):
        raise FocusNetError("E_RUN", f"{RUN_FILE} of '{run.name}' names other organs than its checkpoint.")
    _check_data(run, config, dataset, state["data"])
    found = tuple(facts["organs"])
    small = tuple(facts["small_organs"]) if stage in ("sos", "joint") else ()
    network = build_model(config, len(found), len(small))
    # A run that stopped before SOS-Net ships S-Net alone.
    network.load_state_dict({k: v for k, v in state["model"].items() if small or k.startswith("snet.")})
    spec = ModelSpec(
        name=config.name,
        description=options.description or f"FocusNetv2 trained on {dataset.name}",
        architecture=Architecture(name="focusnetv2", arguments=network_arguments(config, len(found), len(small))),
        organs=found,
        small_organs=small,
        spacing_mm_xyz=config.data.spacing_xyz,
        window_hu=config.data.window_hu,
        # The shape seen in training: normalisation and channel gates depend on what else is in a piece.
        chunk_shape_zyx=config.data.chunk_zyx,
        overlap_zyx=overlap(config.data.chunk_zyx),
        roi_shape_zyx=config.network.roi_shape_zyx,
        grids=options.grids,
        training_data=dataset.statement,
    )
    with new_folder(output, overwrite, holds_bundle) as scratch:
        draft = save_bundle(scratch / "draft", spec, network, "draft")
        measured = score(draft, dataset, options.device, tell)
        scores = {organ: OrganScore.of(m.dsc, m.patients) for organ, m in measured.items()}
        lines = {organ: m.line() for organ, m in measured.items()}
        spec = spec.model_copy(
            update={
                "metrics": {f"dsc_{k}": round(s.mean, 4) for k, s in scores.items() if s.n},
                "expected_dsc": {k: line for k, line in lines.items() if line is not None},
            }
        )
        worth = reliability(measured.values())
        last = next(number for number, s in enumerate(config.schedule, start=1) if s.name == stage)
        trained = config.model_copy(update={"stages": config.schedule[:last]})
        card = write_card(ModelCard(spec, trained, dataset, facts, scores, worth, read_log(run), options.notes))
        save_bundle(scratch / "final", spec, network, card)
        for path in (scratch / "final").iterdir():
            path.rename(scratch / path.name)
        for folder in ("draft", "final"):
            for path in (scratch / folder).iterdir():
                path.unlink()
            (scratch / folder).rmdir()
    return load_bundle(output)


def score(bundle: Bundle, dataset: Dataset, device: str, tell: Told) -> dict[str, Measured]:
    """DSC of a bundle on the validation cases, on their native grids, over the organs that count in each case."""
    predictor = Predictor(bundle, device)
    measured = {organ: Measured([], [], []) for organ in bundle.spec.organs}
    for name in dataset.validation:
        image, labels = read_case(dataset, name)
        prediction = predictor.predict(image)
        case = []
        for organ in bundle.spec.organs:
            if organ in dataset.cases[name].scored:
                truth, answer = labels.mask(organ), prediction.labelmap.mask(organ)
                if truth.any():  # an organ that is not there has no DSC, found or not
                    case.append(dice(truth, answer))
                    measured[organ].dsc.append(case[-1])
                    measured[organ].certainty.append(prediction.organs[organ].certainty)
                    measured[organ].patients.append(dataset.cases[name].patient)
        tell(f"{name}: mean DSC {np.mean(case):.3f} over {len(case)} organs")
    return measured


def read_run(run: Path) -> tuple[TrainingConfig, dict[str, Any]]:
    """Configuration of a run, and what it found in its data: ``data``, ``organs``, ``small_organs``, ``device``.

    Raises:
        FocusNetError: ``E_RUN``.
    """
    try:
        config = TrainingConfig.model_validate_json((run / "config.json").read_text("utf-8"))
        facts = json.loads((run / RUN_FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise FocusNetError("E_RUN", f"'{run.name}' is not the folder of a training run.") from error
    return config, facts


def is_finished(run: Path, until: str | None) -> bool:
    """Whether a run has finished a stage, or with None all of its stages.

    Raises:
        FocusNetError: ``E_RUN``, ``E_CHECKPOINT``.
    """
    config, _ = read_run(run)
    names: list[str] = [stage.name for stage in config.schedule]
    done: int = load_checkpoint(run / "last.pt")["stage"]
    return done > (len(names) - 1 if until is None else names.index(until))


def _last_stage(run: Path, config: TrainingConfig) -> tuple[str, dict[str, Any]]:
    """The last stage with a validated checkpoint that the guard of `Trainer` would keep."""
    for stage in reversed(config.schedule):
        path = best_file(run, stage.name)
        if stage.name != "sol" and path.exists() and not did_harm(run, stage.name, config.max_fall):
            return stage.name, load_checkpoint(path)
    raise FocusNetError(
        "E_RUN",
        f"No stage of '{run.name}' has weights to ship: train on until one is validated; or, where the guard undid its "
        "stages, ship the weights that it started from.",
    )


def _check_data(run: Path, config: TrainingConfig, dataset: Dataset, trained: dict[str, Any]) -> None:
    """Refuse data that are not those of the run: a model would be measured on cases that it has learned."""
    organs, small, cache = trained["organs"], trained["small_organs"], run / "cache"
    with writing("the prepared cases"):
        training, validation = (
            prepare(dataset, names, organs, config.data.spacing_xyz, cache)
            for names in (dataset.training, dataset.validation)
        )
    now = data_identity(training, validation, organs, small)
    if difference := data_difference(trained, now, (*dataset.training, *dataset.validation)):
        raise FocusNetError(
            "E_RUN",
            f"'{run.name}' was trained with other data or another split ({'; '.join(difference)}); restore them, or "
            "train anew.",
        )
