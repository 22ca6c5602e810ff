"""One suite for every SDK: cases as data, driven through each language's harness, held against real servers."""
