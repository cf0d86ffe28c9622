"""An image and what tells its classes."""

from dataclasses import dataclass
from pathlib import Path

from flexunet.dataset.annotation import Annotation


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Attributes:
      id: their common path below the source, without role folder and suffix, in NFC.
      image: its file.
      mask: the mask's file, or the one that the annotation comes from; the image itself where there is neither.
      split: what the source says, as a name of ours; None where it says nothing.
      annotation: draws the mask where that is no file.
    """

    id: str
    image: Path
    mask: Path
    split: str | None
    annotation: Annotation | None = None

    def file_bytes(self) -> int:
        """Size of what is read for it alone, in bytes; what many images share does not count."""
        own = [self.image] if self.annotation else [self.image, self.mask]
        return sum(file.stat().st_size for file in own)
