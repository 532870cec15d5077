"""Commands that check the guarantee, and take too long for the tests."""
