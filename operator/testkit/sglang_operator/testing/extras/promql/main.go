// Prometheus' own parser, store and query engine without a server: scrapes and queries in, answers
// out, as JSON.
//
//	{"scrapes": [{"at": 1.5, "labels": {"pod": "a"}, "honor_labels": true, "text": "up 1\n"}],
//	 "at": 2.0, "queries": {"name": "sum(up)"}}
//
// gives {"name": {"series": [{"labels": {}, "value": "1"}], "warnings": [], "error": ""}}.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
)

const contentType = "text/plain; version=0.0.4"

type scrape struct {
	At          float64           `json:"at"` // seconds since 1970
	Labels      map[string]string `json:"labels"`
	HonorLabels bool              `json:"honor_labels"`
	Text        string            `json:"text"`
}

type input struct {
	Scrapes []scrape          `json:"scrapes"`
	At      float64           `json:"at"`
	Queries map[string]string `json:"queries"`
}

type series struct {
	Labels map[string]string `json:"labels"`
	Value  string            `json:"value"`
}

type answer struct {
	Series   []series `json:"series"`
	Warnings []string `json:"warnings"`
	Error    string   `json:"error"`
}

func main() {
	log.SetFlags(0)
	if err := run(os.Stdin, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(from io.Reader, to io.Writer) error {
	var given input
	if err := json.NewDecoder(from).Decode(&given); err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "promql-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	db, err := tsdb.Open(folder, slog.New(slog.DiscardHandler), nil, tsdb.DefaultOptions(), nil)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, each := range given.Scrapes {
		if err := store(db, each); err != nil {
			return fmt.Errorf("scrape of %v at %v: %w", each.Labels, each.At, err)
		}
	}
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples:           50_000_000,
		Timeout:              time.Minute,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		Parser:               parser.NewParser(parser.Options{}),
	})
	defer engine.Close()
	answers := map[string]answer{}
	for name, query := range given.Queries {
		answers[name] = ask(engine, db, query, milliseconds(given.At))
	}
	return json.NewEncoder(to).Encode(answers)
}

func milliseconds(seconds float64) int64 { return int64(math.Round(seconds * 1000)) }

// store appends the samples of one scrape, under its target's labels.
func store(db *tsdb.DB, from scrape) error {
	parsed, err := textparse.New([]byte(from.Text), contentType, labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return err
	}
	appender := db.Appender(context.Background())
	at := milliseconds(from.At)
	for {
		entry, err := parsed.Next()
		if errors.Is(err, io.EOF) {
			return appender.Commit()
		}
		if err != nil {
			return errors.Join(err, appender.Rollback())
		}
		if entry != textparse.EntrySeries {
			continue
		}
		_, _, value := parsed.Series()
		var found labels.Labels
		parsed.Labels(&found)
		if _, err := appender.Append(storage.SeriesRef(0), target(found, from), at, value); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", found, err), appender.Rollback())
		}
	}
}

// target adds the labels of what was scraped; of two with one name one is kept as "exported_".
func target(found labels.Labels, from scrape) labels.Labels {
	made := labels.NewBuilder(found)
	for name, value := range from.Labels {
		own := found.Get(name)
		switch {
		case own == "":
			made.Set(name, value)
		case !from.HonorLabels:
			made.Set("exported_"+name, own)
			made.Set(name, value)
		}
	}
	return made.Labels()
}

func ask(engine *promql.Engine, db *tsdb.DB, text string, at int64) answer {
	query, err := engine.NewInstantQuery(context.Background(), db, nil, text, time.UnixMilli(at))
	if err != nil {
		return answer{Error: err.Error()}
	}
	defer query.Close()
	result := query.Exec(context.Background())
	if result.Err != nil {
		return answer{Error: result.Err.Error()}
	}
	told := answer{Series: []series{}, Warnings: []string{}}
	for _, warning := range result.Warnings.AsErrors() {
		told.Warnings = append(told.Warnings, warning.Error())
	}
	vector, err := result.Vector()
	if err != nil {
		return answer{Error: err.Error()}
	}
	for _, sample := range vector {
		value := strconv.FormatFloat(sample.F, 'g', -1, 64)
		told.Series = append(told.Series, series{Labels: sample.Metric.Map(), Value: value})
	}
	return told
}
