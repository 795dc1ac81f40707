package forward

const childDir = "FLAGSTEAD_TEST_EVENTS"

func serveInsights(string) int { return 0 }
