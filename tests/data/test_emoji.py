from pathlib import Path

import matplotlib
import numpy as np
import pytest

from keywarp.data import emoji
from keywarp.data.emoji import CLASS_SYMBOLS, DISTRACTORS, ColourFont, find_font
from keywarp.data.imagenet_classes import IMAGENET_VID
from keywarp.errors import UserError


@pytest.fixture(scope="module")
def font() -> ColourFont:
    try:
        return ColourFont(find_font())
    except UserError as error:
        pytest.skip(str(error))


def test_every_class_has_symbols_of_its_own():
    assert list(CLASS_SYMBOLS) == list(IMAGENET_VID)
    symbols = "".join(CLASS_SYMBOLS.values()) + DISTRACTORS
    assert len(set(symbols)) == len(symbols)


def test_sprites_are_cut_to_what_is_drawn_and_have_colours(font):
    for name, symbols in font.classes.items():
        for symbol in symbols:
            sprite = font.class_sprite(name, symbol)
            assert 40 < max(sprite.shape[:2]) < 200
            alpha = sprite[..., 3]
            assert alpha[0].any()
            assert alpha[-1].any()
            assert alpha[:, 0].any()
            assert alpha[:, -1].any()
            assert 0.15 < (alpha > 0.5).mean() < 0.99, f"{name} is hardly there, or a filled box"
            assert (sprite[..., :3] <= 255 * alpha[..., None] + 1e-3).all(), "colours are multiplied by alpha"


def test_the_symbols_of_a_class_are_different_pictures(font):
    assert not np.array_equal(font.sprite("🐈"), font.sprite("🐱"))


def test_the_red_panda_is_red(font):
    red, _, blue = (font.class_sprite("red_panda", "🦝")[..., c].mean() for c in range(3))
    grey_red, _, grey_blue = (font.sprite("🦝")[..., c].mean() for c in range(3))
    assert red / blue > 1.8 > 1.3 > grey_red / grey_blue


def test_without_a_font_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(emoji, "FONTS", ("/nowhere/NotoColorEmoji.ttf",))
    with pytest.raises(UserError, match="fonts-noto-color-emoji"):
        find_font()


def test_a_font_file_that_is_absent_broken_or_without_colours_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no font file"):
        find_font(tmp_path / "absent.ttf")
    broken = tmp_path / "broken.ttf"
    broken.write_text("not a font")
    with pytest.raises(UserError, match=r"broken\.ttf is no font"):
        ColourFont(broken)
    plain = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
    with pytest.raises(UserError, match="no colour emoji"):
        ColourFont(plain)


def test_a_font_that_lacks_a_class_is_an_error_that_names_it(font, monkeypatch):
    monkeypatch.setitem(CLASS_SYMBOLS, "zebra", "\U0010fffd")
    with pytest.raises(UserError, match="lacks zebra"):
        ColourFont(font.path)
