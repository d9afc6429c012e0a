"""The tests of Arc. A file is named after the module that it tests, a test after behaviour."""
