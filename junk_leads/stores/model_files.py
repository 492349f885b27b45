"""The files of a registered model, verified before they are read.

What lives here: their names, their hashes, and a model made of them. What does not: where they are kept
(`registry.py`) and who writes them (`tracking.py`).
"""

import hashlib
import json
from pathlib import Path

from junk_leads.errors import RegistryError
from junk_leads.steps.boosting import read_booster
from junk_leads.steps.leads.encoding import Encoder, reference_id
from junk_leads.steps.scoring.scoring import ScoringModel
from junk_leads.steps.watching.profiles import Profile

BOOSTER_FILE, ENCODER_FILE, SETTINGS_FILE = "model.txt", "encoder.json", "settings.json"
PROFILE_FILE = "profile.json"  # of the leads that it learned from; versions of before have none
HASHES_FILE = "sha256.json"
_LEFT_BY_LOADING = ("registered_model_meta",)


def files_sha256(folder: Path) -> str:
    """The hashes of a model's files, as the registry keeps them in a tag."""
    names = [BOOSTER_FILE, ENCODER_FILE, SETTINGS_FILE]
    names += [PROFILE_FILE] if (folder / PROFILE_FILE).exists() else []
    return json.dumps({name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names})


def folder_sha256(folder: Path) -> str:
    """One hash of all files below a logged model's folder, its code and MLflow's own among them, by name and content.

    What MLflow and Python leave there when they load it does not count.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _LEFT_BY_LOADING and "__pycache__" not in path.parts:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def refuse_changed_folder(folder: Path, version: str, expected_sha256: str) -> None:
    """Raise RegistryError unless the files of a logged model are, one and all, those that were registered."""
    _refuse_other(folder_sha256(folder), expected_sha256, version, folder)


def load_scoring_model(folder: Path, version: str, expected_sha256: str) -> ScoringModel:
    """The model in a folder of its files, verified before LightGBM reads it.

    LightGBM ends the whole process on a damaged file, so the hashes come first.
    """
    _refuse_damaged(folder, version, expected_sha256)
    encoder = Encoder.from_json((folder / ENCODER_FILE).read_text(encoding="utf-8"))
    if encoder.reference != reference_id():
        raise RegistryError(
            f"version {version} was trained with other city tiers or interaction groups than this program has; "
            f"train again, or use the program it was trained with"
        )
    settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    booster = read_booster(folder / BOOSTER_FILE)
    return ScoringModel(version, booster, encoder, settings)


def load_profile(folder: Path, version: str, expected_sha256: str) -> Profile | None:
    """The profile of the leads that a version learned from, verified; None for a version registered without one."""
    _refuse_damaged(folder, version, expected_sha256)
    file = folder / PROFILE_FILE
    return Profile.from_json(file.read_text(encoding="utf-8")) if file.exists() else None


def _refuse_damaged(folder: Path, version: str, expected_sha256: str) -> None:
    try:
        found = files_sha256(folder)
    except OSError as error:
        raise RegistryError(f"version {version} lacks the file {error.filename}; roll back or train again") from error
    _refuse_other(found, expected_sha256, version, folder)


def _refuse_other(found: str, expected_sha256: str, version: str, folder: Path) -> None:
    if not expected_sha256:
        raise RegistryError(
            f"version {version} was registered without the hashes of its files, or they were taken away; nothing "
            "vouches for what it would score: roll back to another version or train again"
        )
    if found != expected_sha256:
        raise RegistryError(
            f"the files of version {version} are not those that were registered (SHA-256 differs); "
            f"roll back to another version or restore {folder}"
        )
