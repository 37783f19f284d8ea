"""Miniature downloads: real folders and file names, and a different image in each file."""

from itertools import count
from pathlib import Path

import nibabel
import numpy as np

from tests.helpers import encoded

_number = count()


def image(path: Path, number: int | None = None) -> Path:
    """A small image at `path`; the same `number` gives the same file."""
    number = next(_number) if number is None else number
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (8 + number // 256 % 64, 8)
    format = "PNG" if path.suffix == ".png" else "JPEG"
    path.write_bytes(encoded(color=number % 256, size=size, format=format))
    return path


def bmad(root: Path, names: dict[str, list[str]], masks: str = "label") -> Path:
    """A BMAD set, from names of images for train/good, valid/good, valid/Ungood and so on."""
    for place, members in names.items():
        for name in members:
            image(root / place / ("" if place.startswith("train") else "img") / name)
            if place.endswith("Ungood"):
                image(root / place / masks / name)
    return root


BRATS = {
    "train/good": ["00003_60.png", "00003_61.png"],
    "valid/good": ["00100_60.png"],
    "valid/Ungood": ["00124_60.png", "00124_70.png"],
    "test/good": ["00000_96.png"],
    "test/Ungood": ["00002_60.png", "00002_68.png"],
}


def brain_mri(root: Path) -> Path:
    """`Brain_AD`, with masks in `label`."""
    return bmad(root / "BraTS2021_slice", BRATS).parent


def liver_ct(root: Path) -> Path:
    """`Liver_AD` of BMAD: folders of classes below img and label, in a wrapper `Train`."""
    home = root / "Liver" / "Train" / "hist_DIY"
    image(home / "train/good/7_100.png")
    for folder, first in (("valid", 10), ("test", 50)):
        for scan in range(1, 5):
            for kind in ("good", "Ungood"):
                name = f"{scan}_{first + (kind == 'good')}.png"
                image(home / folder / "img" / kind / name)
                image(home / folder / "label" / kind / name)
    return root


def retinal_resc(root: Path) -> Path:
    """`Retina_RESC_AD`: Train/train, Val/val and Test/test, masks in val_label and test_label."""
    image(root / "RESC/Train/train/good/1_5.png")
    for outer, inner, first in (("Val", "val", 10), ("Test", "test", 50)):
        for volume in range(1, 5):
            image(root / "RESC" / outer / inner / "good" / f"{volume}_{first}.png")
            image(root / "RESC" / outer / inner / "Ungood" / f"{volume}_{first + 1}.png")
            image(root / "RESC" / outer / f"{inner}_label" / "Ungood" / f"{volume}_{first + 1}.png")
    return root


def histopathology(root: Path) -> Path:
    """`Histopathology_AD`: images without `img` below the classes, no masks."""
    for place in ("train/good", "valid/good", "valid/Ungood", "test/good", "test/Ungood"):
        for number in (1000, 1001):
            image(root / "camelyon16_256" / place / f"{number}.png")
    return root


def brain_tumour_mri(root: Path) -> Path:
    """The Kaggle set: Training and Testing, a folder for each class."""
    for folder, mark in (("Training", "Tr"), ("Testing", "Te")):
        for name in ("glioma", "meningioma", "notumor", "pituitary"):
            for number in (10, 11):
                image(root / folder / name / f"{mark}-{name[:2]}_00{number}.jpg")
    return root


def retinal_oct(root: Path) -> Path:
    """OCT2017 in Kaggle's folder, whose name ends in a space; patient 1001 is in train and test."""
    home = root / "OCT2017 "
    for k, name in enumerate(("CNV", "DME", "DRUSEN", "NORMAL")):
        image(home / "train" / name / f"{name}-{100 + k}-1.jpeg")
        image(home / "val" / name / f"{name}-{200 + k}-1.jpeg")
        image(home / "test" / name / f"{name}-{300 + k}-1.jpeg")
    image(home / "train/CNV/CNV-1001-1.jpeg")
    image(home / "test/CNV/CNV-1001-2.jpeg")
    image(root / "chest_xray/train/NORMAL/IM-0115-0001.jpeg")
    return root


CHEST_TABLE = """Image Index,Finding Labels,Follow-up #,Patient ID,View Position
00000001_000.png,Cardiomegaly,0,1,PA
00000001_001.png,Cardiomegaly|Emphysema,1,1,PA
00000002_000.png,No Finding,0,2,PA
00000003_000.png,Hernia|Pleural_Thickening|Edema,0,3,PA
00000004_000.png,No Finding,0,4,AP
00000005_000.png,Mass,0,5,AP
"""


def chest_xray(root: Path) -> Path:
    """ChestX-ray14 in Kaggle's layout; the image of patient 5 is missing."""
    image(root / "images_001/images/00000001_000.png")
    image(root / "images_001/images/00000001_001.png")
    image(root / "images_001/images/00000002_000.png")
    image(root / "images_002/images/00000003_000.png")
    image(root / "images_002/images/00000004_000.png")
    (root / "Data_Entry_2017.csv").write_text(CHEST_TABLE)
    pool = ["00000001_000.png", "00000001_001.png", "00000002_000.png", "00000005_000.png"]
    (root / "train_val_list.txt").write_text("\n".join(pool) + "\n")
    (root / "test_list.txt").write_text("00000003_000.png\n00000004_000.png")
    return root


# The full-width comma between most keywords of ODIR-5K.
COMMA = "\uff0c"
KEYWORDS = {
    0: ("cataract", "normal fundus"),
    1: (f"laser spot{COMMA}moderate non proliferative retinopathy", "drusen"),
    2: ("low image quality", f"normal fundus{COMMA}lens dust"),
    4: ("no fundus image", f"severe nonproliferative retinopathy{COMMA}hypertensive retinopathy"),
    5: ("suspected glaucoma", "dry age-related macular degeneration"),
    6: ("myopic maculopathy", "maculopathy"),
}
ODIR_HEADER = (
    "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,"
    "Left-Diagnostic Keywords,Right-Diagnostic Keywords,N,D,G,C,A,H,M,O,filename"
)


def odir_table() -> str:
    """`full_df.csv`: one row per eye, and both eyes in each row."""
    rows = [
        f"{k},60,Male,{k}_left.jpg,{k}_right.jpg,{left},{right},0,1,0,0,0,0,0,0,{k}_{eye}.jpg"
        for k, (left, right) in KEYWORDS.items()
        for eye in ("left", "right")
    ]
    return "\n".join([ODIR_HEADER, *rows]) + "\n"


def fundus(root: Path) -> Path:
    """ODIR-5K in Kaggle's layout, with preprocessed copies and unlabelled test images."""
    for k in KEYWORDS:
        for eye in ("left", "right"):
            image(root / "ODIR-5K/ODIR-5K/Training Images" / f"{k}_{eye}.jpg")
            image(root / "preprocessed_images" / f"{k}_{eye}.jpg")
    image(root / "ODIR-5K/ODIR-5K/Testing Images/937_left.jpg")
    (root / "full_df.csv").write_text(odir_table(), encoding="utf-8")
    return root


def breast_ultrasound(root: Path) -> Path:
    """BUSI, with masks beside the images."""
    for name in ("benign", "malignant", "normal"):
        for number in range(1, 11):
            image(root / "Dataset_BUSI_with_GT" / name / f"{name} ({number}).png")
            image(root / "Dataset_BUSI_with_GT" / name / f"{name} ({number})_mask.png")
    image(root / "Dataset_BUSI_with_GT/benign/benign (1)_mask_1.png")
    return root


def volume(path: Path, voxels: np.ndarray, axes: str = "RAS") -> Path:
    """A NIfTI file of voxels (x, y, z) that are given in RAS, stored with other axes."""
    image = nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 5.0, 1.0]))
    start, end = (nibabel.orientations.axcodes2ornt(codes) for codes in ("RAS", axes))
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(start, end))
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(turned, path)
    return path


def segmented(number: int, organ: int, lesion: int) -> tuple[np.ndarray, np.ndarray]:
    """An image and its segmentation, 16 x 16 x 12: organ in slices 3 to 12, lesion in 8 to 10.

    In slice 8 the lesion has 4 pixels, in 9 and 10 it has 36.
    """
    image = np.zeros((16, 16, 12), np.int16)
    image[3:13, 3:13, 2:] = 100 + number
    mask = np.where(image > 0, organ, 0).astype(np.uint8)
    mask[4:6, 4:6, 7] = lesion
    mask[4:10, 4:10, 8:10] = lesion
    return image, mask


def brats_volumes(root: Path) -> Path:
    """BraTS 2021: a folder for each patient, with four sequences; the last has no segmentation."""
    home = root / "RSNA_ASNR_MICCAI_BraTS2021_TrainingData"
    for k in range(4):
        image, mask = segmented(k, organ=0, lesion=4)
        case = home / f"BraTS2021_0000{k}" / f"BraTS2021_0000{k}"
        for kind in ("flair", "t1", "t1ce", "t2"):
            volume(Path(f"{case}_{kind}.nii.gz"), image, "LPS")
        if k < 3:
            volume(Path(f"{case}_seg.nii.gz"), mask, "LPS")
    return root


def lits_volumes(root: Path) -> Path:
    """LiTS: two batches of volumes, and the segmentations beside them or in another folder."""
    for k in range(4):
        image, mask = segmented(k, organ=1, lesion=2)
        batch = root / "media" / f"Training Batch {1 + k // 2}"
        volume(batch / f"volume-{k}.nii", image)
        volume((batch if k < 2 else root / "segmentations") / f"segmentation-{k}.nii", mask)
    return root


TREES = {
    "brats_volumes": brats_volumes,
    "lits_volumes": lits_volumes,
    "brain_mri": brain_mri,
    "brain_tumour_mri": brain_tumour_mri,
    "liver_ct": liver_ct,
    "retinal_oct": retinal_oct,
    "retinal_resc": retinal_resc,
    "chest_xray": chest_xray,
    "fundus": fundus,
    "breast_ultrasound": breast_ultrasound,
    "histopathology": histopathology,
}
