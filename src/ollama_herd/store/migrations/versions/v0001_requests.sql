-- Traces with their texts, for people and other programs.
CREATE VIEW requests AS
SELECT
    traces.id,
    traces.request_id,
    traces.started_at,
    coalesce(client.text, '') AS client,
    coalesce(api_key.text, '') AS key_name,
    coalesce(path.text, '') AS path,
    coalesce(model.text, '') AS model,
    coalesce(node.text, '') AS node_id,
    traces.status,
    coalesce(error.text, '') AS error,
    coalesce(tags.text, '') AS tags,
    traces.reason,
    traces.queue_ms,
    traces.ttft_ms,
    traces.total_ms,
    traces.prefill_ms,
    traces.decode_ms,
    traces.load_ms,
    traces.predicted_ttft_ms,
    traces.predicted_total_ms,
    traces.prompt_tokens,
    traces.output_tokens,
    traces.attempt_count
FROM traces
LEFT JOIN labels AS client ON client.id = traces.client_label
LEFT JOIN labels AS api_key ON api_key.id = traces.key_label
LEFT JOIN labels AS path ON path.id = traces.path_label
LEFT JOIN labels AS model ON model.id = traces.model_label
LEFT JOIN labels AS node ON node.id = traces.node_label
LEFT JOIN labels AS error ON error.id = traces.error_label
LEFT JOIN labels AS tags ON tags.id = traces.tags_label
