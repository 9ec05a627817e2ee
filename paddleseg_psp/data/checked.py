"""Reading images and labels with every check that a wrong file should fail."""

import cv2
import numpy as np
import paddle
from PIL import Image

from paddleseg_psp.errors import UserError


class CheckedDataset(paddle.io.Dataset):
    """The samples of a PaddleSeg data set, each file checked as it is read.

    A sample of mode "train" has img [3, H, W] float32 and label [H, W], both transformed. One of mode "val" has the label as
    in its file, and trans_info, the steps that lead from the network's output back to it.

    Args:
        dataset: has `file_list` of (image, label) paths, `transforms` (a paddleseg Compose), `mode`, `num_classes` and
            `ignore_index`, as all data sets of paddleseg do.

    Raises (on reading a sample):
        UserError: names the file and what is wrong with it.
    """

    def __init__(self, dataset):
        self.file_list = dataset.file_list
        self.transforms = dataset.transforms
        self.training = dataset.mode == "train"
        self.num_classes = dataset.num_classes
        self.ignore_index = dataset.ignore_index
        self.class_names = getattr(dataset, "CLASS_NAMES", None)

    def __len__(self):
        return len(self.file_list)

    def files(self, index):
        """Returns what to call a sample in messages."""
        return " and ".join(self.file_list[index])

    def __getitem__(self, index):
        image_path, label_path = self.file_list[index]
        image = read_image(image_path, self.transforms.read_flag)
        label = self._read_label(label_path, image_path, image.shape[:2])
        if self.training:
            sample = self.transforms({"img": image, "label": label, "gt_fields": ["label"]})
            return {"img": sample["img"], "label": sample["label"]}
        sample = self.transforms({"img": image, "gt_fields": []})
        return {"img": sample["img"], "label": label, "trans_info": sample["trans_info"]}

    def _read_label(self, path, image_path, size):
        try:
            label = np.asarray(Image.open(path))
        except Exception as error:  # Pillow has many exceptions for broken files
            raise UserError(f"the label {path} cannot be read: {error}")
        if label.ndim != 2:
            raise UserError(f"the label {path} has {label.shape[2]} channels; expected one channel of class indices")
        if label.shape != size:
            raise UserError(
                f"the label {path} is {label.shape[1]}x{label.shape[0]} but its image {image_path} is {size[1]}x{size[0]}"
            )
        values = np.unique(label)
        wrong = values[((values < 0) | (values >= self.num_classes)) & (values != self.ignore_index)]
        if wrong.size:
            pixels = int(np.isin(label, wrong).sum())
            shown = ", ".join(map(str, wrong[:5].tolist())) + (", …" if wrong.size > 5 else "")
            raise UserError(
                f"the label {path} has the values {shown} on {pixels} pixels; allowed are 0 to {self.num_classes - 1}, and "
                f"{self.ignore_index} for ignored pixels"
            )
        return label


def read_image(path, flag=cv2.IMREAD_COLOR):
    """Returns the image in a file as float32 [H, W, 3] (blue, green, red), or [H, W] with cv2.IMREAD_GRAYSCALE.

    Raises:
        UserError: no such file, or one that OpenCV cannot decode.
    """
    image = cv2.imread(path, flag)
    if image is None:
        raise UserError(f"the image {path} cannot be read: it is missing, truncated or no image")
    return image.astype("float32")
