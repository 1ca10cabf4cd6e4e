"""What a recipe may set of each backend of the table, as its own fields say, and a backend with some of it set."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, ValidationError, create_model, model_validator

from secateur.backends import BACKENDS, Backend
from secateur.backends.setting import settings_of
from secateur.errors import BackendError, first_line
from secateur.recipe_section import Section


def _sections() -> dict[str, Any]:
    """Return a section for every backend with settings, absent by default."""
    found: dict[str, Any] = {}
    for name, backend in BACKENDS.items():
        fields: dict[str, Any] = {
            key: (Annotated[setting.kind, Field(description=setting.meaning)], setting.default)
            for key, setting in settings_of(backend).items()
        }
        if fields:
            section = create_model(
                "".join(map(str.title, [*name.split("_"), "options"])), __base__=Section,
                __doc__=(type(backend).__doc__ or name).splitlines()[0],
                __validators__={"possible": _possible(backend)}, **fields,
            )  # fmt: skip
            found[name] = (Annotated[section | None, Field(description=f"Settings of {name}.")], None)
    return found


def _possible(backend: Backend) -> Any:
    """Make the validator that asks a backend whether its settings go together."""

    def check(given: Section) -> Section:
        try:
            replace(backend, **given.model_dump(exclude_defaults=True))  # type: ignore[type-var]
        except BackendError as error:
            raise ValueError(f"{error.wanted}, or not {error.found}") from error
        return given

    return model_validator(mode="after")(check)


class BackendOptions(create_model("Backends", __base__=Section, **_sections())):  # type: ignore[misc]
    """Settings of backends, by their names in the table; what is left out keeps the backend's own default."""

    def given(self, name: str) -> dict[str, Any]:
        """Return what is set of a backend otherwise than the table has it."""
        wanted = getattr(self, name, None)
        return {} if wanted is None else wanted.model_dump(exclude_defaults=True)

    def backend(self, name: str) -> Backend:
        """Return a backend of the table with what is set of it."""
        given = self.given(name)
        return replace(BACKENDS[name], **given) if given else BACKENDS[name]  # type: ignore[type-var]


def configured(name: str, settings: Mapping[str, Any], where: str) -> Backend:
    """Return a backend of the table with settings as a file keeps them.

    Raises:
        BackendError: there is no such backend, or it has no such setting.
    """
    if name not in BACKENDS:
        raise BackendError(
            where, f"an engine of {name!r}", f"one of {', '.join(BACKENDS)}",
            "Install the package that brings this backend.",
        )  # fmt: skip
    if not settings:
        return BACKENDS[name]
    try:
        return BackendOptions.model_validate({name: settings}).backend(name)
    except ValidationError as error:
        raise BackendError(
            where, f"settings of {name} that do not fit ({first_line(error)})", "those of a recipe's build.options",
            "Build and deploy it again.",
        ) from error  # fmt: skip
