library(testthat)
library(monitoring)

test_check("monitoring")
