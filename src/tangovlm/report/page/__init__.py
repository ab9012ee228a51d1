"""The parts of the HTML page: tables of answers, frames with their tokens, and the data that its script draws."""
