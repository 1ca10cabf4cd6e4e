"""What every part of a recipe is."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe: closed, immutable, and documented field by field for the JSON Schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
