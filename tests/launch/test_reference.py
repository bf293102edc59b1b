from pathlib import Path

from engine.config import valid_keys
from launch.screens.configuration_page import reference

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_what_the_code_says() -> None:
    text = reference()
    assert PAGE.read_text(encoding="utf-8") == text, (
        "run python -m launch.screens.configuration_page > docs/configuration.md"
    )
    for key in valid_keys():
        assert f"`{key}`" in text
