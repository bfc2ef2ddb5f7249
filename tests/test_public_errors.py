"""Files that are not what the set has: the error says what is wrong, what should be and where to get it."""

import pytest
from public_cases import ALICCP, KUAIRAND, MOVIELENS, MOVIELENS_DAT, RETAILROCKET, TAOBAO, TMALL, write

from csmf_tf.cli import main
from csmf_tf.data.public import SETS, import_set


def only(case, *files):
    return case._replace(files={name: case.files[name] for name in files})


HEADER = "user_id,item_id,category_id,behavior,timestamp\n"
CLASSIC = "UserBehavior.csv"
LOG = "user_log_format1.csv"
KUAIRAND_LOG = "log_standard_4_08_to_4_21_1k.csv"
CHANGED = {
    "wrong separator": (
        TAOBAO,
        CLASSIC,
        ",",
        "\t",
        ["1 field separated by ',' where 5 should be", "tianchi"],
    ),
    "unknown behaviour": (
        *(TAOBAO, CLASSIC, "cart", "basket"),
        ["data row 2", "`behavior` should be one of pv, fav, cart, buy", "'basket'"],
    ),
    "time that is no number": (
        TAOBAO,
        CLASSIC,
        "1511561733",
        "soon",
        ["data row 2", "`timestamp`", "'soon'"],
    ),
    "too few fields": (
        *(TAOBAO, CLASSIC, "2520377,cart,", "cart,"),
        ["data row 2", "5 fields", "Received: 4"],
    ),
    "no item": (TAOBAO, CLASSIC, "1,2268318,99", "1,,99", ["`item_id`", "hold an id"]),
    "behaviour without events": (
        *(TAOBAO, CLASSIC, "cart", "pv"),
        ["every behaviour of the funnel (view, cart, buy)", "no event of cart"],
    ),
    "missing column": (
        *(TMALL, LOG, "action_type", "action"),
        ["user_log_format1.csv", "lacks action_type", "tianchi.aliyun.com/dataset/42"],
    ),
    "no day": (TMALL, LOG, "1111", "1131", ["data row 3", "a month and a day", "'1131'"]),
    "flag that is none": (
        *(KUAIRAND, KUAIRAND_LOG, "1650485802000,0", "1650485802000,2"),
        ["data row 2", "`is_click` should be one of 0, 1", "'2'"],
    ),
    "number that is none": (
        *(KUAIRAND, "video_features_basic_1k.csv", "17200.0", "long"),
        ["data row 1", "`video_duration` should be a number", "'long'"],
    ),
    "rating that is none": (
        *(MOVIELENS, "ratings.csv.gz", "3.5", "good"),
        ["data row 3", "`rating` should be a number", "'good'"],
    ),
    "empty rating": (
        *(MOVIELENS, "ratings.csv.gz", "3.5", ""),
        ["data row 3", "`rating` should be a number", "None"],
    ),
    "film with too many fields": (
        *(MOVIELENS_DAT, "movies.dat", "Drama", "Drama::x"),
        ["data row 2", "item_id::title::genres", "Drama::x"],
    ),
    "skeleton of other features": (
        *(ALICCP, "common_features_train.csv", "00000f", "11111f"),
        ["data row 4", "`common_feature_index` should stand in", "00000f1692951881"],
    ),
    "no item in the features": (
        *(ALICCP, "sample_skeleton_train.csv", "205\x02", "204\x02"),
        ["data row 1", "hold field 205"],
    ),
}
GIVEN = {
    "a header where none is expected": (
        TAOBAO._replace(files={CLASSIC: HEADER + TAOBAO.files[CLASSIC]}),
        ["'user_id' as its first `user_id`", "no header row", "tianchi.aliyun.com/dataset/649"],
    ),
    "only the optional file": (
        only(TMALL, "user_info_format1.csv"),
        ["The files should hold user_log_format1.csv", "Received: ", "Get it from"],
    ),
    "statistic features": (
        KUAIRAND._replace(
            files=KUAIRAND.files | {"video_features_statistic_1k.csv": "video_id,counts\n1,2\n"}
        ),
        ["video_features_statistic_1k.csv should be", "log_*.csv", "lacks user_id", "kuairand.com"],
    ),
    "two rating files": (
        MOVIELENS._replace(files=MOVIELENS.files | MOVIELENS_DAT.files),
        ["There should be one ratings.csv", "ratings.csv.gz", "ratings.dat"],
    ),
    "skeleton alone": (
        only(ALICCP, "sample_skeleton_train.csv"),
        ["common_features_train.csv", "tianchi.aliyun.com/dataset/408"],
    ),
    "one partner too few": (
        ALICCP._replace(files=ALICCP.files | {"test.csv": ALICCP.files["sample_skeleton_train.csv"]}),
        ["should come with its common_features file", "Received: 2 and 1"],
    ),
    "no file": (RETAILROCKET._replace(files={}), ["events.csv", "Received: no file"]),
}


@pytest.mark.parametrize(("case", "file", "old", "new", "words"), CHANGED.values(), ids=CHANGED)
def test_what_is_wrong_in_a_file_is_said(case, file, old, new, words, tmp_path):
    assert old in case.files[file]
    refused(case._replace(files=case.files | {file: case.files[file].replace(old, new)}), words, tmp_path)


@pytest.mark.parametrize(("case", "words"), GIVEN.values(), ids=GIVEN)
def test_what_is_wrong_with_the_files_is_said(case, words, tmp_path):
    refused(case, words, tmp_path)


def refused(case, words, folder):
    files = write(case, folder)
    with pytest.raises(ValueError, match=r"Received: ") as error:
        import_set(case.set, files, folder / "out")
    missing = [word for word in words if word not in str(error.value)]
    assert not missing, str(error.value)
    assert sorted(path.name for path in folder.iterdir()) == sorted(case.files)


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*none.csv. Get it from https://www.kaggle.com"):
        import_set("retailrocket", [tmp_path / "none.csv"], tmp_path / "out")


def test_empty_and_packed_files(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match=r"should hold rows. Received: an empty file"):
        import_set("taobao", [tmp_path / "empty.csv"], tmp_path / "out")
    (tmp_path / "UserBehavior.csv.zip").write_bytes(b"PK\x03\x04...")
    with pytest.raises(ValueError, match=r"unpacked first. Received: a zip file"):
        import_set("taobao", [tmp_path / "UserBehavior.csv.zip"], tmp_path / "out")


@pytest.mark.parametrize(
    ("users", "items", "words"),
    [
        (["s1"], ["s2"], "should share its search_ids with the user file"),
        (["s1"], None, "Received: 1 user files and 0 item files"),
        (None, None, "Received: 0 user files and 0 item files"),
    ],
)
def test_aliexpress_partners(users, items, words, tmp_path):
    files = []
    for name, pages, fields in (("nl_user_train.csv", users, 32), ("nl_item_train.csv", items, 48)):
        if pages:
            files.append(tmp_path / name)
            files[-1].write_text("".join(f"{page}{',1' * fields}\n" for page in pages))
    with pytest.raises(ValueError, match=words):
        import_set("aliexpress", files, tmp_path / "out")


def test_aliexpress_label(tmp_path):
    (tmp_path / "u.csv").write_text("s1" + ",1" * 32 + "\n")
    (tmp_path / "i.csv").write_text("s1" + ",1" * 48 + "\ns1" + ",1" * 47 + ",3\n")
    with pytest.raises(ValueError, match=r"data row 2 .* `label` should be 0 \(shown\), 1 .*Received: '3'"):
        import_set("aliexpress", [tmp_path / "u.csv", tmp_path / "i.csv"], tmp_path / "out")


def test_aliexpress_header_of_the_user_file(tmp_path):
    names = ",".join(f"user_{n}" for n in range(2, 34))
    (tmp_path / "u.csv").write_text(f"search_id,{names}\ns1" + ",1" * 32 + "\n")
    (tmp_path / "i.csv").write_text("s1" + ",1" * 47 + ",2,2\n")
    with pytest.raises(ValueError, match=r"has 'user_9' as its first `user_9`, where a number should be"):
        import_set("aliexpress", [tmp_path / "u.csv", tmp_path / "i.csv"], tmp_path / "out")


@pytest.mark.parametrize("first", ["", "1.5e-05", "-3.", "1E+2"])
def test_aliexpress_number_in_the_first_row(first, tmp_path):
    (tmp_path / "u.csv").write_text("s1" + ",1" * 7 + f",{first}" + ",1" * 24 + "\n")
    (tmp_path / "i.csv").write_text("s1" + ",1" * 47 + ",2\n")
    done = import_set("aliexpress", [tmp_path / "u.csv", tmp_path / "i.csv"], tmp_path / "out")
    assert done.events == {"exposure": 1, "click": 1, "buy": 1}


def test_utf_16(tmp_path):
    file = tmp_path / "events.csv"
    file.write_bytes(RETAILROCKET.files["events.csv"].encode("utf-16"))
    with pytest.raises(ValueError, match=r"events.csv should be UTF-8 text. Received: text in UTF-16"):
        import_set("retailrocket", [file], tmp_path / "out")


@pytest.mark.parametrize(
    ("thresholds", "name", "given"),
    [((4, 6), "loved", "6"), ((5.5,), "liked", "5.5"), ((6, 7), "liked", "6")],
)
def test_thresholds_above_every_rating(thresholds, name, given, tmp_path):
    with pytest.raises(
        ValueError,
        match=rf"`thresholds` .* Received: {given}, .* is {name}, where the highest rating is 5; lower",
    ):
        import_set("movielens", write(MOVIELENS, tmp_path), tmp_path / "out", thresholds=thresholds)


@pytest.mark.parametrize("thresholds", [(), (5, 4), (4, 4), (1, 2, 3), (float("nan"),)])
def test_thresholds_have_to_rise(thresholds, tmp_path):
    with pytest.raises(ValueError, match="`thresholds` should be one or two rising ratings"):
        import_set("movielens", write(MOVIELENS, tmp_path), tmp_path / "out", thresholds=thresholds)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["taobo", "x.csv"],
            "be a known one. Received: 'taobo'. Did you mean taobao? Known are taobao, tmall",
        ),
        (["RetailRocket", "x.csv"], "Did you mean retailrocket?"),
        (["x.csv", "taobao"], "Received: 'x.csv'. Known are taobao, tmall, retailrocket, aliexpress, aliccp"),
        (["taobao", "x.csv", "--thresholds", "4,5"], "`thresholds` belongs to movielens"),
        (["movielens", "x.csv", "--thresholds", "high"], "`--thresholds` should be ratings, e.g. 4,5"),
    ],
)
def test_command_line_says_it_in_one_line(arguments, words, tmp_path, capsys):
    assert main(["import", *arguments, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", SETS)
def test_every_set_says_where_it_is_from_and_under_what_terms(name):
    assert "https://" in SETS[name].where
    assert SETS[name].licence
