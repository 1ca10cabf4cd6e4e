"""The software bill of materials of a run: CycloneDX 1.6 of the installed distributions that it used."""

import functools
import importlib.metadata
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from secateur import __version__
from secateur.errors import BackendError

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

Distribution = tuple[str, str]
"""A distribution's name, as it spells it, and its version."""


def sbom_json(name: str, onnx_sha256: str, used: set[Distribution]) -> str:
    """Return the bill: the compressed network as the subject, distributions as its parts, who requires whom.

    What the used distributions require and what is installed is listed with them, since it may be loaded without Python
    (the libraries of CUDA). Licences and requirements are known for versions that are installed now. The same materials
    give the same serial number.

    Args:
        name: the run's name.
        onnx_sha256: the hash of the compressed network's ONNX file.
        used: the distributions whose modules were loaded in any of the run's steps.

    Raises:
        BackendError: cyclonedx-python-lib is not installed.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    except ImportError as error:
        raise BackendError(
            "sbom", f"no cyclonedx ({error})", "cyclonedx-python-lib, which writes the bill of materials",
            "Install it: pip install 'secateur[release]'; the next run of the recipe adds the bill.",
        ) from error  # fmt: skip
    materials = _with_requirements({*used, ("secateur", __version__)})
    listed = "\n".join(f"{part}=={version}" for part, version in sorted(materials))
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{name}\n{onnx_sha256}\n{listed}"))
    bom.metadata.component = subject = Component(
        name=name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=f"run:{name}",
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=onnx_sha256)],
    )  # fmt: skip
    parts = {part: _component(*part) for part in sorted(materials)}
    for component in parts.values():
        bom.components.add(component)
    bom.register_dependency(subject, [component for part, component in parts.items() if part in used])
    for part, component in parts.items():
        wanted = {canonicalize_name(required) for required in _requirements(*part)}
        bom.register_dependency(
            component, [other for (theirs, _), other in parts.items() if canonicalize_name(theirs) in wanted]
        )
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1) + "\n"


def _component(name: str, version: str) -> "Component":
    from cyclonedx.factory.license import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    about = _installed(name, version)
    stated = (about.get("License-Expression") or about.get("License") or "").strip() if about else ""
    # Some distributions put the whole text of their licence into that field.
    licences = [LicenseFactory().make_from_string(stated)] if stated and "\n" not in stated else []
    url = PackageURL(type="pypi", name=canonicalize_name(name), version=version)
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, bom_ref=url.to_string(), purl=url, licenses=licences,
        description=about.get("Summary") if about else None,
    )  # fmt: skip


@functools.cache
def _installed(name: str, version: str) -> Mapping[str, str] | None:
    """Return the metadata of a distribution where this version of it is installed."""
    try:
        metadata = importlib.metadata.distribution(name).metadata  # parsed anew whenever it is asked for
    except importlib.metadata.PackageNotFoundError:
        return None
    return dict(metadata.items()) if metadata["Version"] == version else None  # type: ignore[attr-defined]


@functools.cache
def _requirements(name: str, version: str) -> list[str]:
    """Return the names that an installed distribution requires on this system, extras left out."""
    if _installed(name, version) is None:
        return []
    found = []
    for text in importlib.metadata.requires(name) or ():
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # old distributions state some that no tool reads
            continue
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(requirement.name)
    return found


def _with_requirements(used: set[Distribution]) -> set[Distribution]:
    """Return the distributions with all that they require and that is installed, each name in one spelling."""
    found = {(canonicalize_name(name), version): (name, version) for name, version in used}
    waiting = [*used]
    while waiting:
        for required in _requirements(*waiting.pop()):
            try:
                distribution = importlib.metadata.distribution(required)
            except importlib.metadata.PackageNotFoundError:
                continue
            part = (distribution.name, distribution.version)
            key = (canonicalize_name(part[0]), part[1])
            if key not in found:
                found[key] = part
                waiting.append(part)
    return set(found.values())
