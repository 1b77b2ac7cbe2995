// openapi-generator's client for Go.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	lariba "example.invalid/lariba/lariba"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func expect(isSo bool, message ...any) {
	if !isSo {
		panic(fmt.Sprint(message...))
	}
}

func main() {
	configuration := lariba.NewConfiguration()
	configuration.Servers = lariba.ServerConfigurations{{URL: os.Getenv("LARIBA_URL")}}
	api := lariba.NewAPIClient(configuration)
	operator := context.WithValue(context.Background(), lariba.ContextAccessToken, os.Getenv("LARIBA_MANAGEMENT_TOKEN"))

	name := fmt.Sprintf("Shop %d", time.Now().UnixNano())
	project, _, err := api.ProjectsAPI.CreateProject(operator).ProjectCreate(*lariba.NewProjectCreate(name)).Execute()
	check(err)
	environments, _, err := api.EnvironmentsAPI.ListEnvironments(operator, project.Id).Execute()
	check(err)
	first := lariba.NewKeyCreate()
	first.SetLabel("first")
	newSource := lariba.NewSourceCreate("checkout", "backend")
	newSource.SetKey(*first)
	source, _, err := api.SourcesAPI.CreateSource(operator, environments.Data[0].Id).SourceCreate(*newSource).Execute()
	check(err)
	expect(source.Key != nil, "no first key")
	key, _, err := api.KeysAPI.IssueKey(operator, source.Id).KeyCreate(*lariba.NewKeyCreate()).Execute()
	check(err)

	keys := map[string]lariba.APIKey{"sourceKey": {Key: key.Key}}
	producer := context.WithValue(context.Background(), lariba.ContextAPIKeys, keys)
	event := lariba.NewEnvelope("a.b", source.Id, map[string]interface{}{"amount": 49.99})
	event.SetEventId("e1")
	other := *event
	other.SetEventId("e2")
	receipt, _, err := api.IngestAPI.IngestEvent(producer).Envelope(*event).IdempotencyKey("k1").Execute()
	check(err)
	expect(receipt.Accepted && receipt.Status == "stored", *receipt)
	batch := lariba.NewEventBatch([]lariba.Envelope{*event, other})
	answer, _, err := api.IngestAPI.IngestBatch(producer).EventBatch(*batch).Execute()
	check(err)
	expect(answer.Verdicts[0].Status == "duplicate" && answer.Verdicts[1].Status == "stored", *answer)

	_, _, err = api.KeysAPI.RevokeKey(operator, key.Id).Execute()
	check(err)
	_, response, err := api.IngestAPI.IngestEvent(producer).Envelope(*event).Execute()
	expect(err != nil && response.StatusCode == 401, "a revoked key was taken")
	body, isOurs := err.(*lariba.GenericOpenAPIError).Model().(lariba.ErrorBody)
	expect(isOurs && body.Error.Code == "invalid_source_key", body)
	file, _, err := api.AuditAPI.ExportAuditEntries(operator).Execute()
	check(err)
	exported, err := io.ReadAll(file)
	check(err)
	expect(strings.Contains(string(exported), `"complete": true`), string(exported))
}
