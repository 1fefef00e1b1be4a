-- How long the client of this transaction may say nothing: $1, milliseconds as text.
SELECT set_config('idle_in_transaction_session_timeout', $1, true)
