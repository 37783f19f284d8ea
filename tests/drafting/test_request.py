import pytest

from sdmad import storage
from sdmad.drafting.request import check_output, parse_request
from sdmad.errors import UserError


@pytest.mark.parametrize(
    ("modality", "categories", "message"),
    [
        (" ", "a", "the modality is empty"),
        ("CT", " , ", "there are no categories"),
        (
            "CT",
            "a,Pleural Effusion",
            "'Pleural Effusion' is not a valid name.*as in pleural_effusion",
        ),
        ("CT", "a,b,a", "given twice"),
        ("CT", "a,normal", "'normal' is not a category"),
    ],
)
def test_invalid_requests_are_refused(modality, categories, message) -> None:
    with pytest.raises(UserError, match=message):
        parse_request(modality, categories, 3)


@pytest.mark.parametrize(
    ("modality", "name"),
    [
        ("chest X-ray", "chest_x_ray"),
        ("3D CT", "draft_3d_ct"),
        ("眼底", "draft"),
        ("x" * 99, "x" * 64),
    ],
)
def test_catalogs_are_named_after_the_modality(modality, name) -> None:
    assert parse_request(modality, "a", 3).name == name


def test_files_are_replaced_only_with_overwrite(tmp_path) -> None:
    path = tmp_path / "chest.yaml"
    check_output(str(path), overwrite=False)
    path.write_text("precious")
    check_output(str(path), overwrite=True)
    with pytest.raises(UserError, match=r"chest\.yaml exists already.*--overwrite"):
        check_output(str(path), overwrite=False)
    with pytest.raises(UserError, match="is a folder"):
        check_output(str(tmp_path), overwrite=True)


def test_outputs_in_a_bucket_are_checked(s3) -> None:
    uri = storage.join(s3, "catalogs/chest.yaml")
    check_output(uri, overwrite=False)
    storage.write_bytes(uri, b"precious")
    with pytest.raises(UserError, match="already"):
        check_output(uri, overwrite=False)
    with pytest.raises(UserError, match="is a folder"):
        check_output(s3, overwrite=False)
    with pytest.raises(UserError, match="no-such-bucket"):
        check_output("s3://no-such-bucket/chest.yaml", overwrite=False)
