package load

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestPercentilesAreWithinTwoPercent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var (
			h, other Histogram
			all      []time.Duration
		)
		for i := range 5_000 {
			latency := time.Duration(1<<random.IntN(36)) + time.Duration(random.IntN(1_000_000))
			all = append(all, latency)
			if i%2 == 0 {
				h.Record(latency)
			} else {
				other.Record(latency)
			}
		}
		h.merge(&other)
		slices.Sort(all)
		for _, p := range []float64{0, 0.5, 0.9, 0.99, 1} {
			exact := all[int(p*float64(len(all)-1))]
			if got := h.percentile(p); got < exact-time.Microsecond || float64(got) > 1.02*float64(exact)+2000 {
				t.Errorf("p%v: got %s, exact %s", 100*p, got, exact)
			}
		}
		if h.max != all[len(all)-1] {
			t.Errorf("max %s, exact %s", h.max, all[len(all)-1])
		}
	}
}

func TestEveryBucketHoldsItsEdge(t *testing.T) {
	for bucket := range buckets - 1 {
		if got := bucketOf(edgeOf(bucket)); got != bucket {
			t.Fatalf("edge %s of bucket %d falls into %d", edgeOf(bucket), bucket, got)
		}
		if got := bucketOf(edgeOf(bucket) + time.Microsecond); got != bucket+1 {
			t.Fatalf("after the edge of bucket %d comes %d", bucket, got)
		}
	}
}
