-- The functions of the ledger on Postgres, made anew whenever this file changes. Replicas of other versions may call
-- them meanwhile: one whose arguments or result change takes a new name.

-- The hot path, one statement a call. Where a window has to begin first, or a name is not known, these do nothing and
-- return -1: the slow path of proxy/ledger/reserving.py is the one place that knows about calendars.

CREATE OR REPLACE FUNCTION tally_scopes(a_tenant TEXT, a_key TEXT) RETURNS TEXT[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN a_key IS NULL THEN ARRAY['tenant:' || a_tenant] ELSE ARRAY['tenant:' || a_tenant, 'key:' || a_key] END
$$;

CREATE OR REPLACE FUNCTION tally_fit(a_limit BIGINT, a_used BIGINT, a_base BIGINT, a_each BIGINT, a_choices BIGINT)
RETURNS BIGINT LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN a_base = 0 AND a_each = 0 THEN a_choices
        WHEN a_base > coalesce(a_limit, 9223372036854775807) - a_used THEN 0
        WHEN a_each = 0 THEN a_choices
        ELSE least(a_choices, (coalesce(a_limit, 9223372036854775807) - a_used - a_base) / a_each)
    END
$$;

-- For how many choices every window of every scope has room, the scopes locked, the tenant's first; or -1.
CREATE OR REPLACE FUNCTION tally_room(a_ids TEXT[], a_base BIGINT[], a_each BIGINT[], a_choices BIGINT, a_now DOUBLE PRECISION)
RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    held RECORD;
    budget RECORD;
    known BIGINT := 0;
    granted BIGINT := a_choices;
BEGIN
    FOR held IN SELECT * FROM scopes WHERE id = ANY (a_ids) ORDER BY id DESC FOR UPDATE LOOP
        known := known + 1;
        IF held.blocked <> 0 THEN
            granted := 0;
        END IF;
        FOR budget IN SELECT * FROM budgets WHERE scope = held.id LOOP
            IF budget.window_start IS NULL OR a_now < budget.window_start OR a_now >= coalesce(budget.window_end, 0) THEN
                RETURN -1;
            END IF;
            granted := least(
                granted,
                tally_fit(budget.max_nano, budget.nano + held.reserved_nano, a_base[1], a_each[1], a_choices),
                tally_fit(budget.max_tokens, budget.tokens + held.reserved_tokens, a_base[2], a_each[2], a_choices),
                tally_fit(budget.max_samples, budget.samples + held.reserved_samples, a_base[3], a_each[3], a_choices)
            );
        END LOOP;
    END LOOP;
    RETURN CASE WHEN known < cardinality(a_ids) THEN -1 ELSE greatest(granted, 0) END;
END
$$;

CREATE OR REPLACE FUNCTION tally_hold(a_ids TEXT[], a_more BIGINT[]) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    UPDATE scopes SET reserved_nano = reserved_nano + a_more[1], reserved_tokens = reserved_tokens + a_more[2],
        reserved_samples = reserved_samples + a_more[3] WHERE id = ANY (a_ids);
END
$$;

-- How many choices were reserved for; -1 as above, -2 where the attempt is reserved already.
CREATE OR REPLACE FUNCTION tally_reserve(
    a_attempt TEXT, a_tenant TEXT, a_key TEXT, a_request TEXT, a_base BIGINT[], a_each BIGINT[], a_choices BIGINT,
    a_lifetime DOUBLE PRECISION, a_owner TEXT, a_now DOUBLE PRECISION
) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    ids TEXT[] := tally_scopes(a_tenant, a_key);
    granted BIGINT := tally_room(ids, a_base, a_each, a_choices, a_now);
    more BIGINT[];
BEGIN
    IF granted <= 0 THEN
        RETURN granted;
    END IF;
    more := ARRAY[
        a_base[1] + granted * a_each[1], a_base[2] + granted * a_each[2], a_base[3] + granted * a_each[3]
    ];
    INSERT INTO reservations
        (attempt, tenant, "key", request, nano, tokens, samples, prompt_tokens, lifetime, expires_at, owner)
    VALUES (a_attempt, a_tenant, a_key, a_request, more[1], more[2], more[3], a_base[2], a_lifetime,
        a_now + a_lifetime, a_owner)
    ON CONFLICT (attempt) DO NOTHING;
    IF NOT FOUND THEN
        RETURN -2;
    END IF;
    PERFORM tally_hold(ids, more);
    RETURN granted;
END
$$;

-- 1: added; 0: no room, or no such reservation; -1 as above.
CREATE OR REPLACE FUNCTION tally_extend(a_attempt TEXT, a_more BIGINT[], a_now DOUBLE PRECISION)
RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    held RECORD;
    ids TEXT[];
    granted BIGINT;
BEGIN
    SELECT * INTO held FROM reservations WHERE attempt = a_attempt;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    ids := tally_scopes(held.tenant, held.key);
    granted := tally_room(ids, ARRAY[0, 0, 0], a_more, 1, a_now);
    IF granted <= 0 THEN
        -- the slow path also keeps it alive, and sweeps
        RETURN -1;
    END IF;
    UPDATE reservations SET nano = nano + a_more[1], tokens = tokens + a_more[2],
        expires_at = greatest(expires_at, a_now + lifetime) WHERE attempt = a_attempt;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    PERFORM tally_hold(ids, a_more);
    RETURN 1;
END
$$;

-- 1: settled; 0: it had ended already; -1 as above. The rows are JSON objects by the names of columns.
CREATE OR REPLACE FUNCTION tally_settle(a_attempt TEXT, a_cost BIGINT[], a_rows JSONB, a_now DOUBLE PRECISION)
RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    held RECORD;
    ids TEXT[];
BEGIN
    SELECT * INTO held FROM reservations WHERE attempt = a_attempt;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    ids := tally_scopes(held.tenant, held.key);
    IF tally_room(ids, ARRAY[0, 0, 0], ARRAY[0, 0, 0], 1, a_now) < 0 THEN
        RETURN -1;
    END IF;
    -- again, now that the scopes are locked
    DELETE FROM reservations WHERE attempt = a_attempt RETURNING * INTO held;
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    UPDATE scopes SET spent_nano = spent_nano + a_cost[1], spent_tokens = spent_tokens + a_cost[2],
        spent_samples = spent_samples + a_cost[3], reserved_nano = reserved_nano - held.nano,
        reserved_tokens = reserved_tokens - held.tokens, reserved_samples = reserved_samples - held.samples
    WHERE id = ANY (ids);
    IF jsonb_array_length(a_rows) = 0 THEN
        RETURN 1;
    END IF;
    UPDATE budgets SET nano = nano + a_cost[1], tokens = tokens + a_cost[2], samples = samples + a_cost[3]
    WHERE scope = ANY (ids);
    INSERT INTO draws (tenant, "key", request, attempt, settled_at, id, purpose, round, "index", status, model,
        deployment, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost_nano, estimated,
        finish_reason, latency_ms, samples)
    SELECT held.tenant, held.key, held.request, a_attempt, a_now, r.id, r.purpose, r.round, r."index", r.status,
        r.model, r.deployment, r.prompt_tokens, r.cached_tokens, r.completion_tokens, r.reasoning_tokens, r.cost_nano,
        r.estimated, r.finish_reason, r.latency_ms, r.samples
    FROM jsonb_populate_recordset(NULL::draws, a_rows) AS r;
    RETURN 1;
END
$$;

-- Many settlements at once, whose scopes are locked and whose windows hold now. Each row names its attempt.
CREATE OR REPLACE FUNCTION tally_end(a_ended TEXT[], a_rows JSONB, a_now DOUBLE PRECISION)
RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    done BIGINT;
BEGIN
    WITH told AS MATERIALIZED (
        SELECT * FROM jsonb_populate_recordset(NULL::draws, a_rows) WITH ORDINALITY AS r
    ), cost AS (
        SELECT attempt, sum(cost_nano) AS nano, sum(prompt_tokens + completion_tokens) AS tokens,
            sum(told.samples) AS samples
        FROM told GROUP BY attempt
    ), gone AS (
        DELETE FROM reservations WHERE attempt = ANY (a_ended) RETURNING *
    ), moved AS (
        SELECT scope, sum(gone.nano)::BIGINT AS nano, sum(gone.tokens)::BIGINT AS tokens,
            sum(gone.samples)::BIGINT AS samples, coalesce(sum(cost.nano), 0)::BIGINT AS c_nano,
            coalesce(sum(cost.tokens), 0)::BIGINT AS c_tokens, coalesce(sum(cost.samples), 0)::BIGINT AS c_samples
        FROM gone LEFT JOIN cost ON cost.attempt = gone.attempt, unnest(tally_scopes(gone.tenant, gone.key)) AS scope
        GROUP BY scope
    ), counted AS (
        UPDATE scopes SET spent_nano = spent_nano + c_nano, spent_tokens = spent_tokens + c_tokens,
            spent_samples = spent_samples + c_samples, reserved_nano = reserved_nano - moved.nano,
            reserved_tokens = reserved_tokens - moved.tokens, reserved_samples = reserved_samples - moved.samples
        FROM moved WHERE scopes.id = moved.scope
    ), spent AS (
        UPDATE budgets SET nano = budgets.nano + c_nano, tokens = budgets.tokens + c_tokens,
            samples = budgets.samples + c_samples
        FROM moved WHERE budgets.scope = moved.scope AND (c_nano <> 0 OR c_tokens <> 0 OR c_samples <> 0)
    ), written AS (
        INSERT INTO draws (tenant, "key", request, attempt, settled_at, id, purpose, round, "index", status, model,
            deployment, prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, cost_nano, estimated,
            finish_reason, latency_ms, samples)
        SELECT gone.tenant, gone.key, gone.request, gone.attempt, a_now, r.id, r.purpose, r.round, r."index", r.status,
            r.model, r.deployment, r.prompt_tokens, r.cached_tokens, r.completion_tokens, r.reasoning_tokens,
            r.cost_nano, r.estimated, r.finish_reason, r.latency_ms, r.samples
        FROM told AS r JOIN gone ON gone.attempt = r.attempt ORDER BY r.ordinality
    )
    SELECT count(*) INTO done FROM gone;
    RETURN done;
END
$$;

-- What is left in all windows of some scopes at once; blocked: nothing.
CREATE OR REPLACE FUNCTION tally_left(a_ids TEXT[], OUT blocked BOOLEAN, OUT nano BIGINT, OUT tokens BIGINT,
    OUT samples BIGINT) LANGUAGE plpgsql AS $$
BEGIN
    SELECT bool_or(s.blocked <> 0),
        min(coalesce(b.max_nano, 9223372036854775807) - b.nano - s.reserved_nano),
        min(coalesce(b.max_tokens, 9223372036854775807) - b.tokens - s.reserved_tokens),
        min(coalesce(b.max_samples, 9223372036854775807) - b.samples - s.reserved_samples)
    INTO blocked, nano, tokens, samples FROM scopes AS s JOIN budgets AS b ON b.scope = s.id WHERE s.id = ANY (a_ids);
END
$$;

-- The wishes of accounts whose scopes (a_tight) have no room for all of them, account by account: each gets what is
-- left. One that finds no room gets 0, or -1 where its tenant has reservations that have expired.
CREATE OR REPLACE FUNCTION tally_share(
    a_attempts TEXT[], a_tenants TEXT[], a_keys TEXT[], a_requests TEXT[], a_bases BIGINT[], a_eaches BIGINT[],
    a_choices BIGINT[], a_lifetimes DOUBLE PRECISION[], a_tight TEXT[], a_owner TEXT, a_now DOUBLE PRECISION,
    a_answers BIGINT[]
) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
DECLARE
    answers BIGINT[] := a_answers;
    account RECORD;
    room RECORD;
    place BIGINT;
    granted BIGINT;
    held BIGINT[];
    base BIGINT[];
    each BIGINT[];
    more BIGINT[];
BEGIN
    FOR account IN
        SELECT tenant, key, tally_scopes(tenant, key) AS ids, array_agg(w.place ORDER BY w.place) AS places
        FROM unnest(a_tenants, a_keys) WITH ORDINALITY AS w (tenant, key, place)
        WHERE tally_scopes(tenant, key) && a_tight GROUP BY tenant, key ORDER BY min(w.place)
    LOOP
        SELECT * INTO room FROM tally_left(account.ids);
        held := ARRAY[0, 0, 0];
        FOREACH place IN ARRAY account.places LOOP
            base := a_bases[3 * place - 2:3 * place];
            each := a_eaches[3 * place - 2:3 * place];
            granted := CASE WHEN room.blocked THEN 0 ELSE greatest(0, least(
                tally_fit(room.nano - held[1], 0, base[1], each[1], a_choices[place]),
                tally_fit(room.tokens - held[2], 0, base[2], each[2], a_choices[place]),
                tally_fit(room.samples - held[3], 0, base[3], each[3], a_choices[place])
            )) END;
            IF granted = 0 THEN
                -- what has expired is to be charged now: it makes no room, but the next window is free of it
                answers[place] := CASE WHEN EXISTS (
                    SELECT 1 FROM reservations WHERE tenant = account.tenant AND expires_at <= a_now
                ) THEN -1 ELSE 0 END;
                CONTINUE;
            END IF;
            more := ARRAY[base[1] + granted * each[1], base[2] + granted * each[2], base[3] + granted * each[3]];
            INSERT INTO reservations
                (attempt, tenant, "key", request, nano, tokens, samples, prompt_tokens, lifetime, expires_at, owner)
            VALUES (a_attempts[place], account.tenant, account.key, a_requests[place], more[1], more[2], more[3],
                base[2], a_lifetimes[place], a_now + a_lifetimes[place], a_owner);
            held := ARRAY[held[1] + more[1], held[2] + more[2], held[3] + more[3]];
            answers[place] := granted;
        END LOOP;
        PERFORM tally_hold(account.ids, held);
    END LOOP;
    RETURN answers;
END
$$;

-- What a whole group asks for, in one statement: settlements first, then wishes. Where every scope has room for all of
-- its wishes they are granted at once, so that each scope's row changes twice a group and not twice a call. NULL, and
-- nothing is done, where a window has to begin or a name is not known: then each is asked for singly. `a_bases` and
-- `a_eaches` have three numbers a wish.
CREATE OR REPLACE FUNCTION tally_together(
    a_ended TEXT[], a_rows JSONB, a_attempts TEXT[], a_tenants TEXT[], a_keys TEXT[], a_requests TEXT[],
    a_bases BIGINT[], a_eaches BIGINT[], a_choices BIGINT[], a_lifetimes DOUBLE PRECISION[], a_owner TEXT,
    a_now DOUBLE PRECISION
) RETURNS BIGINT[] LANGUAGE plpgsql AS $$
DECLARE
    ids TEXT[];
    known BIGINT;
    tight TEXT[];
    answers BIGINT[];
BEGIN
    SELECT array_agg(DISTINCT s) INTO ids FROM (
        SELECT unnest(tally_scopes(r.tenant, r.key)) AS s FROM reservations AS r WHERE r.attempt = ANY (a_ended)
        UNION ALL SELECT unnest(tally_scopes(w.tenant, w.key)) FROM unnest(a_tenants, a_keys) AS w (tenant, key)
    ) AS named;
    IF ids IS NULL THEN
        RETURN '{}';
    END IF;
    -- tenants first, in one order, so that two replicas never wait for each other
    PERFORM 1 FROM scopes WHERE id = ANY (ids) ORDER BY id LIKE 'key:%', id FOR UPDATE;
    GET DIAGNOSTICS known = ROW_COUNT;
    IF known < cardinality(ids)
        OR EXISTS (
            SELECT 1 FROM budgets WHERE scope = ANY (ids)
            AND (window_start IS NULL OR a_now < window_start OR a_now >= coalesce(window_end, 0))
        )
        OR EXISTS (SELECT 1 FROM reservations WHERE attempt = ANY (a_attempts))
    THEN
        RETURN NULL;
    END IF;
    IF cardinality(a_ended) > 0 THEN
        PERFORM tally_end(a_ended, a_rows, a_now);
    END IF;
    IF cardinality(a_attempts) = 0 THEN
        RETURN '{}';
    END IF;
    -- numeric, for wishes may be larger than what can be counted
    SELECT array_agg(scope) INTO tight FROM (
        SELECT scope, sum(a_bases[3 * place - 2] + choices::NUMERIC * a_eaches[3 * place - 2]) AS nano,
            sum(a_bases[3 * place - 1] + choices::NUMERIC * a_eaches[3 * place - 1]) AS tokens,
            sum(a_bases[3 * place] + choices::NUMERIC * a_eaches[3 * place]) AS samples
        FROM unnest(a_tenants, a_keys, a_choices) WITH ORDINALITY AS w (tenant, key, choices, place),
            unnest(tally_scopes(tenant, key)) AS scope
        GROUP BY scope
    ) AS wanted JOIN LATERAL tally_left(ARRAY[scope]) AS room ON TRUE
    WHERE room.blocked OR (wanted.nano > 0 AND wanted.nano > room.nano)
        OR (wanted.tokens > 0 AND wanted.tokens > room.tokens)
        OR (wanted.samples > 0 AND wanted.samples > room.samples);
    WITH wish AS MATERIALIZED (
        SELECT w.*, tally_scopes(w.tenant, w.key) AS ids, a_bases[3 * w.place - 1] AS prompt,
            a_bases[3 * w.place - 2] + w.choices * a_eaches[3 * w.place - 2] AS nano,
            a_bases[3 * w.place - 1] + w.choices * a_eaches[3 * w.place - 1] AS tokens,
            a_bases[3 * w.place] + w.choices * a_eaches[3 * w.place] AS samples
        FROM unnest(a_attempts, a_tenants, a_keys, a_requests, a_choices, a_lifetimes) WITH ORDINALITY
            AS w (attempt, tenant, key, request, choices, lifetime, place)
        WHERE tight IS NULL OR NOT tally_scopes(w.tenant, w.key) && tight
    ), made AS (
        INSERT INTO reservations
            (attempt, tenant, "key", request, nano, tokens, samples, prompt_tokens, lifetime, expires_at, owner)
        SELECT attempt, tenant, key, request, nano, tokens, samples, prompt, lifetime, a_now + lifetime, a_owner
        FROM wish WHERE choices > 0
    ), held AS (
        UPDATE scopes SET reserved_nano = reserved_nano + more.nano, reserved_tokens = reserved_tokens + more.tokens,
            reserved_samples = reserved_samples + more.samples
        FROM (
            SELECT scope, sum(nano)::BIGINT AS nano, sum(tokens)::BIGINT AS tokens, sum(samples)::BIGINT AS samples
            FROM wish, unnest(wish.ids) AS scope WHERE choices > 0 GROUP BY scope
        ) AS more WHERE scopes.id = more.scope
    )
    SELECT array_agg(coalesce(wish.choices, 0) ORDER BY every.place) INTO answers
    FROM generate_series(1, cardinality(a_attempts)) AS every (place) LEFT JOIN wish ON wish.place = every.place;
    IF tight IS NULL THEN
        RETURN answers;
    END IF;
    RETURN tally_share(a_attempts, a_tenants, a_keys, a_requests, a_bases, a_eaches, a_choices, a_lifetimes, tight,
        a_owner, a_now, answers);
END
$$;

-- How many reservations were charged in full, for nobody told their end; -1 as above.
CREATE OR REPLACE FUNCTION tally_lose(a_attempts TEXT[], a_now DOUBLE PRECISION) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    ids TEXT[] := ARRAY(
        SELECT DISTINCT unnest(tally_scopes(tenant, "key")) FROM reservations WHERE attempt = ANY (a_attempts)
    );
    told JSONB;
BEGIN
    PERFORM 1 FROM scopes WHERE id = ANY (ids) ORDER BY id LIKE 'key:%', id FOR UPDATE;
    IF EXISTS (
        SELECT 1 FROM budgets WHERE scope = ANY (ids)
        AND (window_start IS NULL OR a_now < window_start OR a_now >= coalesce(window_end, 0))
    ) THEN
        RETURN -1;
    END IF;
    -- only now that the scopes are locked is it known which are still there, and how much they hold
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'attempt', attempt, 'id', attempt, 'purpose', 'lost', 'round', 0, 'index', 0, 'status', 'lost', 'model', '',
        'deployment', '', 'prompt_tokens', prompt_tokens, 'cached_tokens', 0, 'completion_tokens',
        tokens - prompt_tokens, 'reasoning_tokens', 0, 'cost_nano', nano, 'estimated', 1, 'latency_ms', 0, 'samples',
        samples
    )), '[]') INTO told FROM reservations WHERE attempt = ANY (a_attempts);
    RETURN tally_end(a_attempts, told, a_now);
END
$$;
