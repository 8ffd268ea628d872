"""Keys of the data: data.*."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import NEVER, Deviations, Means, PathText, Section, Seed, Side, Text, key

MOST_IMAGES = 2**20  # of a step
Share = Annotated[float, Field(ge=1e-4, le=1)]  # of an image's area
Ratio = Annotated[float, Field(ge=0.01, le=100)]
Epoch = Annotated[int, Field(ge=0, le=NEVER)]


class DaliConfig(Section):
    decoder: Literal["auto", "cpu", "mixed"] = key(
        "auto", "where JPEGs are decoded; mixed = on the GPU", affects="numbers", in_fingerprint=False
    )
    hw_decoder_load: float = key(
        0.65, "share of the images for the GPU's JPEG engine (decoder=mixed)", affects="speed", ge=0, le=1
    )
    prefetch: int = key(2, "batches made ahead", affects="speed", ge=1, le=1024)
    resize: Literal["quick", "pillow", "dali"] = key(
        "quick", "after decoding on a CPU: bytes, Pillow's bits, or DALI", affects="numbers", in_fingerprint=False
    )


class FfcvConfig(Section):
    train: PathText | None = key(None, ".beton file of the training set (data_prep/write_beton.py)", affects="place")
    test: PathText | None = key(None, ".beton file of the test set", affects="place")
    cache: Literal["os", "memory"] = key(
        "os", "os: the page cache keeps what fits; memory: the whole file is read", affects="speed"
    )
    batches_ahead: int = key(3, "batches made ahead", affects="speed", ge=1, le=1024)


class DataConfig(Section):
    root: PathText | None = key(None, "folder of the data set", affects="place")
    download: bool = key(False, "fetch the data set into data.root when it is not there", affects="place")
    loader: Text = key("resident", "resident (set in memory), torch (worker processes), dali or ffcv", affects="speed")
    order: Literal["random", "quasi_random", "sequential"] = key(
        "random", "of the training samples in an epoch", affects="numbers"
    )
    decode: Literal["exact", "fast"] = key(
        "exact", "Pillow's pixels, or approximations that decode faster", affects="numbers"
    )
    on_bad: Literal["error", "replace"] = key(
        "error", "image that cannot be read: stop, or take the next of its class", affects="pixels"
    )
    index: Literal["auto", "off", "rebuild"] = key(
        "auto", "file that saves the walk through a large set's folders", affects="speed"
    )
    classes: Literal["wnids", "numbers", "names"] = key(
        "wnids",
        "imagenet's class folders: wnids, numbers = 0, 1, ... in this order, names = any in their order",
        affects="numbers",
        before="wnids",
    )
    max_pixels: int = key(
        89_478_485,
        "of an image file: one whose header says more is not decoded",
        affects="numbers",
        before=89_478_485,
        ge=1,
        le=2**32,
    )
    read_timeout: float = key(
        300, "seconds for one image file to be read, then the run ends, 0 = never", affects="speed", ge=0, le=1e6
    )
    batch_size: int = key(64, "images per optimiser step over all ranks", affects="numbers", ge=1, le=MOST_IMAGES)
    eval_batch_size: int = key(256, "images per evaluation step and rank", affects="speed", ge=1, le=MOST_IMAGES)
    workers: int = key(2, "worker processes per rank (loader torch)", affects="speed", ge=0, le=1024)
    seed: Seed = key(0, "keys crops, flips and mixes; shared by runs that share a cache", affects="pixels")
    mean: Means = key((0.5, 0.5, 0.5), "subtracted per channel, pixels in 0..1", affects="pixels")
    std: Deviations = key((0.25, 0.25, 0.25), "divided by per channel, pixels in 0..1", affects="pixels")
    image_size: Side = key(32, "pixels, height and width of what the network sees", affects="pixels")
    min_image_size: Side | None = key(
        None, "pixels that training starts with; they grow to image_size", affects="pixels"
    )
    grow_epochs: tuple[Epoch, Epoch] = key(
        (0, 0), "last epoch (from 1) at min_image_size, first at image_size", affects="pixels"
    )
    eval_image_size: Side | None = key(None, "pixels in evaluation; default image_size", affects="numbers")
    eval_flip: bool = key(
        False, "evaluate the mean of the logits of an image and of its mirror image", affects="numbers"
    )
    crop: Literal["pad", "window", "none"] = key(
        "pad", "pad and crop, RandomResizedCrop window, or none", affects="pixels"
    )
    padding: int = key(4, "pixels of zeros around the image (crop=pad)", affects="pixels", ge=0, le=1024)
    scale: tuple[Share, Share] = key(
        (0.08, 1.0), "area range of the window, share of the image (crop=window)", affects="pixels"
    )
    ratio: tuple[Ratio, Ratio] = key(
        (0.75, 4 / 3), "aspect range of the window, width / height (crop=window)", affects="pixels"
    )
    flip: bool = key(True, "mirror half of the images", affects="pixels")
    rotation: float = key(0.0, "random rotation in +- degrees, 0 = off", affects="pixels", ge=0, le=180)
    resize: Side | None = key(None, "pixels of the shorter side before the centre crop in evaluation", affects="pixels")
    dali: DaliConfig = DaliConfig()
    ffcv: FfcvConfig = FfcvConfig()
    val_split: int = key(0, "training images held out for select_on=val", affects="numbers", ge=0, le=NEVER)

    @model_validator(mode="after")
    def _ranges(self) -> "DataConfig":
        if self.scale[0] > self.scale[1]:
            raise ValueError("scale must be a range inside 0..1")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError("ratio must be an ascending range of positive numbers")
        return self

    @model_validator(mode="after")
    def _growth(self) -> "DataConfig":
        first, (last_small, first_large) = self.min_image_size, self.grow_epochs
        if first is None:
            return self
        if first > self.image_size:
            raise ValueError(f"min_image_size={first} is above image_size={self.image_size}")
        if self.crop != "window":
            raise ValueError(f"min_image_size needs crop=window: with crop={self.crop} images have one size")
        if not 1 <= last_small < first_large:
            raise ValueError(
                f"min_image_size needs grow_epochs=[A,B] with 1 <= A < B, not {list(self.grow_epochs)}: the last epoch "
                "at min_image_size and the first at image_size"
            )
        return self

    @property
    def test_size(self) -> int:
        """Pixels of a side in evaluation."""
        return self.eval_image_size or self.image_size

    @property
    def smallest_size(self) -> int:
        """Pixels of a side of the first training images."""
        return self.min_image_size or self.image_size

    @property
    def ramp(self) -> tuple[int, int, int] | None:
        """(first size, last epoch that has it, first epoch that has image_size), epochs from 0; None: one size."""
        last_small, first_large = self.grow_epochs
        return None if self.min_image_size is None else (self.min_image_size, last_small - 1, first_large - 1)
