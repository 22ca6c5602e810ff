test_that("Retry-After is misread", {
  expect_equal(monitoring:::retry_after("7"), 7)
  expect_equal(monitoring:::retry_after("99999999999"), 3600)
  expect_equal(monitoring:::retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now = 784111770), 7)
  expect_equal(monitoring:::retry_after("next tuesday"), 0)
  expect_equal(monitoring:::retry_after(NULL), 0)
})

test_that("a dead receiver is asked for every batch", {
  breaker <- monitoring:::new_breaker()
  expect_true(monitoring:::breaker_allows(breaker))
  expect_true(monitoring:::breaker_failed(breaker))
  expect_false(monitoring:::breaker_allows(breaker))
  expect_true(monitoring:::breaker_succeeded(breaker))
  expect_true(monitoring:::breaker_allows(breaker))
})
