"""What every request's body has in common."""

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """A request's body: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")
