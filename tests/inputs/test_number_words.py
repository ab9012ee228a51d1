"""Numbers as English words."""

from tangovlm.inputs.number_words import in_words


def test_numbers_in_words() -> None:
    words = {0: "zero", 13: "thirteen", 20: "twenty", 64: "sixty-four", 100: "one hundred", 999: None, 1000: "1000"}
    words |= {999: "nine hundred and ninety-nine", 701: "seven hundred and one", 850: "eight hundred and fifty"}
    assert {number: in_words(number) for number in words} == words
    assert len({in_words(number) for number in range(1000)}) == 1000
