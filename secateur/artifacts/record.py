"""Results that are stored as JSON."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A result that is stored as JSON; immutable and closed."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")
