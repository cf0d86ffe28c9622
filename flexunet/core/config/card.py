"""Settings of `[card]`: what only people know of a model, for its card."""

from pydantic import Field

from flexunet.core.config.gate import GateSettings
from flexunet.core.config.section import Section


class CardConfig(Section):
    """What a model's card says beside what was measured; Markdown, and what is unset is said to be unset."""

    name: str = Field(default="", description="Name of the model; unset: made of its classes.")
    owner: str = Field(default="", description="Who answers for the model, and how they are reached.")
    license: str = Field(
        default="", description="Licence of the model, by its identifier at Hugging Face, such as apache-2.0."
    )
    intended_use: str = Field(default="", description="What the model is for: which product, line, decision.")
    out_of_scope: str = Field(default="", description="What it must not be used for.")
    data: str = Field(default="", description="Where the images come from, and who labelled them.")
    considerations: str = Field(default="", description="What a wrong answer can do to people, and what prevents it.")


class PushSettings(GateSettings):
    """The sections that the Pusher reads: what the scores are made of, and what a version's card says."""

    card: CardConfig = Field(default_factory=CardConfig)
