"""What every section of the configuration is."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen model that refuses unknown keys, infinities and NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
