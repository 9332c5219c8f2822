"""Settings: read from TOML, checked once, written back the same, and every mistake explained in one line."""

import math
import re
import tomllib
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crnn.charset import Charset, LabelRules
from crnn.config.model import CharsetConfig, parse_reader_config
from crnn.config.run import Config, dump_config, load_config, parse_config, preset_names
from crnn.config.section import checked_call
from crnn.config.training import DataConfig, OptimConfig, TrainConfig
from crnn.errors import ConfigError


def refusal(toml):
    with pytest.raises(ConfigError) as caught:
        parse_config(tomllib.loads(toml), source="my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml: ")
    assert "\n" not in message
    return message.removeprefix("my.toml: ")


# ---- files and presets


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_a_round_trip(name):
    config = load_config(name)
    assert config != Config()
    assert parse_config(tomllib.loads(dump_config(config))) == config


def test_a_file_stands_above_the_defaults(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[optim]\nlearning_rate = 3e-4\n[charset]\ncharacters = "abc"\n', encoding="utf-8")
    config = load_config(path)
    assert config.optim.learning_rate == 3e-4
    assert config.charset.charset() == Charset("abc")
    assert config.optim.momentum == OptimConfig().momentum
    assert config.train == TrainConfig()
    assert load_config(str(path)) == config


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf[train]\nbatch_size = 7\n")
    assert load_config(path).train.batch_size == 7


def test_a_file_that_cannot_be_used_is_named(tmp_path):
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=r"missing\.toml' is neither a file nor a preset; .*tiny"):
        load_config(missing)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match=r"binary\.toml' is no text"):
        load_config(binary)
    broken = tmp_path / "broken.toml"
    broken.write_text("[train]\nseed = 1\nseed = 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.toml: not valid TOML: .*line 3"):
        load_config(broken)
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[train]\nsed = 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"wrong\.toml: unknown key 'train\.sed'; did you mean 'train\.seed'\?$"):
        load_config(wrong)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = " + "[" * 20_000 + "]" * 20_000, "is nested too deeply; expected a TOML file or a preset"),
        ("[" + "a." * 1100 + "b]", "has a key with more than 200 dots; expected a TOML file or a preset"),
        ("a = {" + "a." * 1100 + "b = 1}", "has a key with more than 200 dots"),
        ("a = {" + "',' .\t" * 1100 + "b = 1}", "has a key with more than 200 dots"),
        ('a = {b = """"c""\\"""""", ' + "a." * 1100 + "b = 1}", "has a key with more than 200 dots"),
        ("train.seed." + "a." * 190 + "b = 1", "train.seed is .*; input should be a valid integer"),
        ("n = " + "9" * 5000, "not valid TOML: Exceeds the limit"),
        ("#" * (1 << 20) + "\n", "has more than 1,048,576 bytes; expected a TOML file or a preset"),
    ],
    ids=lambda text: text[:12],
)
def test_a_file_that_takes_time_or_memory_is_refused(content, message, tmp_path):
    path = tmp_path / "large.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_dots_of_comments_and_texts_are_not_those_of_keys(tmp_path):
    path = tmp_path / "mine.toml"
    one, several, escaped = ".a" * 300, "\n.b" * 300, " .c" * 300
    lines = [f"# it's {one}", "[data]", "train = [", f"'{one}', # it's {one}", f"'''{several}''',", f'"\\"{escaped}"]']
    path.write_text("\n".join(lines), encoding="utf-8")
    assert load_config(path).data.train == (one, several[1:], '"' + escaped)


# ---- mistakes


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[optim]\nlearning_rat = 1.0", "unknown key 'optim.learning_rat'; did you mean 'optim.learning_rate'?"),
        ("[train]\nlearning_rate = 1.0", "unknown key 'train.learning_rate'; did you mean 'optim.learning_rate'?"),
        ("hidden_size = 8", "unknown key 'hidden_size'; did you mean 'model.hidden_size'?"),
        ("[faces]\nitalics = false", "section [faces] is now [fonts]; rename it, its keys are the same"),
        ("[optimm]\nlearning_rate = 1.0", "unknown key 'optimm'; did you mean 'optim'?"),
        # A name like no other gets the names that there are, not the one with the most letters of the section.
        ("[eval]\nlr = 1.0", "unknown key 'eval.lr'; expected one of: eval_steps, protocol, batch_size"),
        (
            "lr = 1.0",
            "unknown key 'lr'; expected one of: model, image, charset, data, augment, synth, corpus, "
            "fonts, style, camera, objective, optim, train, eval, checkpoint",
        ),
    ],
)
def test_an_unknown_key_gets_the_nearest_name(toml, message):
    assert refusal(toml) == message


def test_every_key_is_found_with_a_letter_missing():
    for section, field in Config.model_fields.items():
        for key in field.annotation.model_fields:
            typo = key[:-1] if len(key) > 5 else key + "s"
            message = refusal(f"[{section}]\n{typo} = 1")
            if typo != "num_step":  # which is a setting of another section
                assert message == f"unknown key '{section}.{typo}'; did you mean '{section}.{key}'?"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ('[train]\nbatch_size = "64"', "train.batch_size is '64'; input should be a valid integer"),
        ("[train]\nbatch_size = 0", "train.batch_size is 0; input should be greater than or equal to 1"),
        ("[optim]\nlearning_rate = nan", "optim.learning_rate is nan; input should be a finite number"),
        ('[model]\nbackbone = "resnet"', "model.backbone is 'resnet'; input should be 'vgg' or 'small'"),
        ('[data]\ntrain = "words.tsv"', "data.train is 'words.tsv'; input should be a list: ['words.tsv']"),
        ('[data]\ntrain = ["a", 3]', "data.train.1 is 3; input should be a valid string"),
        ("model = 3", "model is 3; input should be a section of settings: [model]"),
        ("[image]\nimage_height = 48", "image: image_height is 48; the backbones are made for 32"),
        ("[image]\nmin_width = 64\nmax_width = 48", "image: min_width 64 is above max_width 48"),
        ('[data]\ntrain = ["a"]\nratios = [1, 2]', "data: ratios has 2 numbers for 1 sources in train"),
        ('[charset]\ncharacters = "abca"', "charset: charset has 'a' twice, at positions 0 and 3; remove one"),
        (
            "[train]\nsed = 1\n[optim]\nmomentum = 1.0",
            "optim.momentum is 1.0; input should be less than 1; unknown key 'train.sed'; did you mean 'train.seed'?",
        ),
    ],
)
def test_a_wrong_value_is_shown_with_what_was_expected(toml, message):
    assert refusal(toml) == message


@pytest.mark.parametrize(
    ("toml", "given", "expected", "why"),
    [
        ('[model]\nclass_num = 37\n[charset]\ncharacters = "62"', "model.class_num is 37", 63, "that many characters"),
        ("[model]\nblank = 0", "model.blank is 0", 36, "the blank is the last class"),
        ("[model]\ninput_size = 256", "model.input_size is 256", 512, "backbone vgg gives that depth"),
        ("[model]\nnum_step = 26", "model.num_step is 26", 24, "image_width is 100"),
    ],
)
def test_a_contradiction_says_both_values(toml, given, expected, why):
    message = refusal(toml)
    assert message.startswith(f"{given} but must be {expected}: ")
    assert why in message
    assert message.endswith("Leave it out or correct it")


def test_every_setting_is_explained():
    for section, field in Config.model_fields.items():
        for key, setting in field.annotation.model_fields.items():
            assert setting.description, f"{section}.{key} has no docstring"


# ---- round trip


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CHARACTERS = st.lists(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20, unique=True).map("".join)


@given(st.lists(TEXT, max_size=3), TEXT, CHARACTERS, st.floats(1e-300, 1.0))
def test_settings_written_to_a_file_are_read_back_equal(train, folder, characters, number):
    num_classes = Charset(characters).num_classes
    tree = {
        "model": {"backbone": "small", "class_num": num_classes, "blank": num_classes - 1},
        "charset": {"characters": characters, "case": "keep", "unicode": "keep", "whitespace": "keep"},
        "data": {"train": train, "ratios": [number] * len(train)},
        "optim": {"learning_rate": number},
        "train": {"num_steps": 7, "tensorboard": False},
        "checkpoint": {"save_checkpoint_path": folder},
    }
    config = parse_config(tree)
    values = tomllib.loads(dump_config(config))
    assert parse_config(values) == config
    assert (config.data.train, config.optim.learning_rate) == (tuple(train), number)
    assert parse_reader_config({k: values[k] for k in ("model", "image", "charset")}, "weights") == config.reader()
    assert parse_reader_config(tomllib.loads(dump_config(config.reader())), "weights") == config.reader()


def test_settings_of_earlier_versions_are_read_where_they_were_off():
    assert parse_config({"data": {"shards": "all"}}) == Config()
    with pytest.raises(ConfigError, match=r"unknown key 'data\.shards'"):
        parse_config({"data": {"shards": "own"}})


# ---- a charset that its own label rules change


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"characters": "\u0995\u09af\u09df"}, "\u09df (U+09DF) becomes \u09af\u09bc (U+09AF U+09BC)"),
        ({"characters": "abce\u0301"}, "e\u0301 (U+0065 U+0301) becomes é (U+00E9)"),  # the letter and its mark
        ({"characters": "ab\u212b"}, "\u212b (U+212B) becomes Å (U+00C5)"),
        ({"characters": "ab\ufb2a"}, "\ufb2a (U+FB2A) becomes \u05e9\u05c1 (U+05E9 U+05C1)"),
        ({"characters": "αβγδεζηθικλμνξοπρστυφχψω"}, "Σ at the end of a word becomes ς (U+03C2)"),
        ({"characters": "ab\u00a0"}, "\u00a0 (U+00A0) becomes nothing"),
        ({"characters": "95", "whitespace": "remove"}, "  (U+0020) becomes nothing"),
        ({"characters": "abß", "case": "upper"}, "a (U+0061) becomes A (U+0041), b "),
        ({"characters": "aé", "unicode": "ascii"}, "é (U+00E9) becomes e (U+0065)"),
        ({"characters": "62", "case": "lower"}, "H (U+0048) becomes h (U+0068), ..."),
    ],
)
def test_a_charset_that_its_own_rules_change_is_refused_and_its_weights_are_still_read(section, named):
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        parse_config({"charset": section})
    assert str(caught.value).startswith("settings: charset.characters has what its own label rules (unicode ")
    assert parse_reader_config({"charset": section}, "weights").charset == CharsetConfig(**section)


@pytest.mark.parametrize(
    "section",
    [
        {"characters": "\u0995\u09af\u09bc"},
        {"characters": "abcé"},
        {"characters": "abce\u0301", "unicode": "NFD"},
        {"characters": "αβγδεζηθικλμνξοπρσςτυφχψω"},
        {"characters": "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ"},
        {"characters": "\u0928\u0930\u0939\u093c"},  # of Hindi, whose nukta NFC joins to some letters alone
        {"characters": "abß"},
        {"characters": "aíi\u0301 "},
    ],
)
def test_a_charset_in_its_own_form_is_taken(section):
    assert parse_config({"charset": section}).charset == CharsetConfig(**section)


# ---- what follows from settings


@pytest.mark.parametrize(
    ("characters", "case", "unicode", "whitespace"),
    [
        ("36", "lower", "ascii", "remove"),
        ("62", "keep", "ascii", "remove"),
        ("94", "keep", "ascii", "remove"),
        ("95", "keep", "ascii", "collapse"),
        ("0123456789", "keep", "ascii", "remove"),
        ("ABC012", "upper", "ascii", "remove"),
        ("abc ", "lower", "ascii", "collapse"),
        ("aàé", "lower", "NFC", "remove"),
        ("ÀÉ ", "upper", "NFC", "collapse"),
        ("日本語", "keep", "NFC", "remove"),
        ("日本語abc", "lower", "NFC", "remove"),
        ("aB", "keep", "ascii", "remove"),
    ],
)
def test_auto_is_decided_by_the_characters(characters, case, unicode, whitespace):
    rules = CharsetConfig(characters=characters).rules()
    assert rules == LabelRules(
        case=case, unicode=unicode, whitespace=whitespace, unknown="drop_character", max_length=25, truncate=False
    )


def test_what_is_not_auto_is_taken_as_it_is():
    settings = {"case": "upper", "unicode": "NFKC", "whitespace": "keep", "unknown": "drop_sample", "truncate": True}
    rules = CharsetConfig(**settings, max_text_length=7).rules()
    assert rules == LabelRules(**settings, max_length=7)
    assert CharsetConfig(characters="ABC", case="keep").rules().case == "keep"


def test_lists_become_tuples_and_whole_numbers_floats():
    config = parse_config(tomllib.loads('[data]\ntrain = ["a", "b"]\nratios = [1, 2.5]\n[optim]\nclip_norm = 10\n'))
    assert config.data == DataConfig(train=("a", "b"), ratios=(1.0, 2.5))
    assert math.isclose(config.optim.clip_norm, 10.0)
    assert isinstance(config.optim.clip_norm, float)
    assert hash(config) == hash(parse_config(config.model_dump()))


def test_what_was_expected_of_an_argument_is_said_once():
    @checked_call
    def call(charset: Literal["auto"] | Literal["36", "62"] = "auto", whole: bool = True, **options: int) -> bool:
        return whole

    with pytest.raises(ConfigError, match=r"^charset is 36; expected one of: auto or 36, 62$"):
        call(charset=36)
    with pytest.raises(ConfigError, match=r"^whole is 1; expected a valid boolean$"):
        call(whole=1)
    assert call(whole=np.bool_(True))
