"""The states of chain transactions and of payment intents, enforced where they are kept.

The tables of both are in docs/transaction-states.md, and a test compares them with what is enforced here.
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

# A transaction that an earlier release had set apart carries this as the error of its attempts.
_CONSUMED = "NonceConsumed: a transaction that is not ours has used the nonce, and is final"
# An earlier release wrote this before the error of a payout that may be handed over again.
_RETRY = "\x1e"


def upgrade() -> None:
    _attempts()
    _payouts()
    _transactions()
    _intents()


def _transactions() -> None:
    op.execute("ALTER TABLE chain_transaction DROP CONSTRAINT known_status, DROP CONSTRAINT known_kind")
    op.execute(
        """
        UPDATE chain_transaction SET status = 'INCLUDED'
        WHERE status IN ('SIGNED', 'BROADCAST') AND block_number IS NOT NULL
        """
    )
    op.execute(
        f"""
        UPDATE chain_transaction AS transaction SET status = 'QUARANTINED'
        WHERE status IN ('SIGNED', 'BROADCAST') AND EXISTS (
            SELECT FROM chain_attempt AS lost
            WHERE lost.transaction_id = transaction.id AND lost.error = '{_CONSUMED}')
        """  # noqa: S608
    )
    op.execute(
        """
        ALTER TABLE chain_transaction
            ADD CONSTRAINT known_status CHECK (status IN (
                'SIGNED', 'BROADCAST', 'INCLUDED', 'CONFIRMED', 'FINALIZED', 'EXPIRED', 'QUARANTINED')),
            ADD CONSTRAINT known_kind CHECK (kind IN (
                'transfer', 'batch', 'delegation', 'approval', 'sweep', 'move', 'fill')),
            ADD CONSTRAINT in_a_block CHECK (
                (status IN ('INCLUDED', 'CONFIRMED', 'FINALIZED'))
                = (num_nulls(block_number, block_hash, hash, succeeded, fee, rent) = 0)),
            ADD CONSTRAINT in_no_block CHECK (
                status IN ('INCLUDED', 'CONFIRMED', 'FINALIZED')
                OR num_nonnulls(block_number, block_hash, hash, succeeded, fee, rent) = 0)
        """
    )
    op.execute(
        """
        CREATE FUNCTION chain_transaction_moves() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (OLD.status, NEW.status) NOT IN (
                ('SIGNED', 'BROADCAST'), ('SIGNED', 'INCLUDED'), ('SIGNED', 'EXPIRED'),
                ('SIGNED', 'QUARANTINED'),
                ('BROADCAST', 'INCLUDED'), ('BROADCAST', 'EXPIRED'), ('BROADCAST', 'QUARANTINED'),
                ('INCLUDED', 'CONFIRMED'), ('INCLUDED', 'BROADCAST'),
                ('CONFIRMED', 'FINALIZED'), ('CONFIRMED', 'BROADCAST'),
                ('QUARANTINED', 'BROADCAST'), ('QUARANTINED', 'INCLUDED'), ('QUARANTINED', 'EXPIRED')
            ) THEN
                RAISE EXCEPTION 'chain transaction % cannot go from % to %', OLD.id, OLD.status, NEW.status
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'chain_transaction_moves';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER moves BEFORE UPDATE OF status ON chain_transaction FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION chain_transaction_moves()
        """
    )
    op.execute(
        """
        CREATE FUNCTION chain_transaction_is_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'chain transaction % is fixed in what was to be changed', OLD.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'chain_transaction_is_fixed';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER fixed BEFORE UPDATE ON chain_transaction FOR EACH ROW
        WHEN ((OLD.id, OLD.org_id, OLD.chain, OLD.address, OLD.kind, OLD.nonce)
              IS DISTINCT FROM (NEW.id, NEW.org_id, NEW.chain, NEW.address, NEW.kind, NEW.nonce)
              OR OLD.status IN ('FINALIZED', 'EXPIRED') AND OLD.* IS DISTINCT FROM NEW.*)
        EXECUTE FUNCTION chain_transaction_is_fixed()
        """
    )
    op.execute(
        """
        CREATE FUNCTION chain_transaction_begins() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'chain transaction % begins as SIGNED', NEW.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'chain_transaction_begins';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER begins BEFORE INSERT ON chain_transaction FOR EACH ROW
        WHEN (NEW.status <> 'SIGNED') EXECUTE FUNCTION chain_transaction_begins()
        """
    )
    op.execute(
        """
        CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON chain_transaction
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
    )


def _attempts() -> None:
    op.execute(
        """
        ALTER TABLE chain_attempt
            ADD COLUMN cancels boolean NOT NULL DEFAULT false,
            ADD COLUMN answer varchar,
            ADD CONSTRAINT known_answer CHECK (answer IN ('sent', 'maybe_sent', 'not_sent'))
        """
    )
    op.execute(
        """
        UPDATE chain_attempt SET answer = CASE WHEN sent_at IS NULL THEN 'maybe_sent' ELSE 'sent' END
        WHERE sent_at IS NOT NULL OR error IS NOT NULL
        """
    )
    # What was sent stays sent, and what perhaps was is never surely not.
    op.execute(
        """
        CREATE FUNCTION chain_attempt_is_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'attempt % is fixed in what was to be changed', OLD.hash
                USING ERRCODE = 'check_violation', CONSTRAINT = 'chain_attempt_is_fixed';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER fixed BEFORE UPDATE ON chain_attempt FOR EACH ROW
        WHEN ((OLD.chain, OLD.hash, OLD.transaction_id, OLD.org_id, OLD.raw, OLD.created_height,
               OLD.expires_at, OLD.cancels)
              IS DISTINCT FROM (NEW.chain, NEW.hash, NEW.transaction_id, NEW.org_id, NEW.raw,
               NEW.created_height, NEW.expires_at, NEW.cancels)
              OR coalesce(array_position('{not_sent,maybe_sent,sent}', OLD.answer::text), 0)
               > coalesce(array_position('{not_sent,maybe_sent,sent}', NEW.answer::text), 0))
        EXECUTE FUNCTION chain_attempt_is_fixed()
        """
    )
    op.execute(
        """
        CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON chain_attempt
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
    )
    # Fresh bytes for what is in a block, final or given up would be a second payment.
    op.execute(
        """
        CREATE FUNCTION chain_attempt_is_due() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE wrong record;
        BEGIN
            SELECT added.transaction_id, transaction.status INTO wrong
            FROM added JOIN chain_transaction AS transaction ON transaction.id = added.transaction_id
            WHERE transaction.status NOT IN ('SIGNED', 'BROADCAST') LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION 'chain transaction % is % and takes no further attempt',
                    wrong.transaction_id, wrong.status
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'chain_attempt_is_due';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER due AFTER INSERT ON chain_attempt REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION chain_attempt_is_due()
        """
    )


def _payouts() -> None:
    op.execute(
        """
        ALTER TABLE chain_payout
            ADD COLUMN code varchar,
            ADD COLUMN retry boolean NOT NULL DEFAULT false
        """
    )
    op.execute(
        f"""
        UPDATE chain_payout SET retry = true, error = nullif(substr(error, 2), '')
        WHERE starts_with(error, '{_RETRY}')
        """  # noqa: S608
    )
    op.execute(
        """
        CREATE FUNCTION chain_payout_is_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'payout % of % is fixed in what was to be changed',
                OLD.position, OLD.transaction_id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'chain_payout_is_fixed';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER fixed BEFORE UPDATE ON chain_payout FOR EACH ROW
        WHEN ((OLD.transaction_id, OLD.position, OLD.org_id, OLD.reference, OLD.recipient, OLD.amount)
              IS DISTINCT FROM
              (NEW.transaction_id, NEW.position, NEW.org_id, NEW.reference, NEW.recipient, NEW.amount))
        EXECUTE FUNCTION chain_payout_is_fixed()
        """
    )
    op.execute(
        """
        CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON chain_payout
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()
        """
    )
    # A payment goes into another transaction only when the one before surely did not and never will pay it.
    op.execute(
        """
        CREATE FUNCTION chain_payout_is_single() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE doubled record;
        BEGIN
            SELECT added.reference, added.transaction_id, other.transaction_id AS before INTO doubled
            FROM added
                JOIN chain_payout AS other
                  ON other.org_id = added.org_id AND other.reference = added.reference
                 AND (other.transaction_id, other.position) <> (added.transaction_id, added.position)
                JOIN chain_transaction AS transaction ON transaction.id = other.transaction_id
            WHERE transaction.status <> 'EXPIRED'
              AND (transaction.status <> 'FINALIZED' OR other.paid IS NOT FALSE)
            LIMIT 1;
            IF FOUND THEN
                RAISE EXCEPTION '% is in % and may not be in % as well',
                    doubled.reference, doubled.before, doubled.transaction_id
                    USING ERRCODE = 'unique_violation', CONSTRAINT = 'chain_payout_is_single';
            END IF;
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER single AFTER INSERT ON chain_payout REFERENCING NEW TABLE AS added
        FOR EACH STATEMENT EXECUTE FUNCTION chain_payout_is_single()
        """
    )


def _intents() -> None:
    op.execute(
        """
        ALTER TABLE payment_intent
            ADD COLUMN urgency varchar NOT NULL DEFAULT 'normal',
            ADD CONSTRAINT known_urgency CHECK (urgency IN ('low', 'normal', 'high'))
        """
    )
    op.execute(
        """
        CREATE FUNCTION payment_intent_moves() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF (OLD.status, NEW.status) NOT IN (
                ('RESERVED', 'BROADCAST'), ('RESERVED', 'FAILED'), ('RESERVED', 'CANCELED'),
                ('BROADCAST', 'CONFIRMED'), ('BROADCAST', 'RESERVED'), ('BROADCAST', 'FAILED'),
                ('CONFIRMED', 'FINALIZED'), ('CONFIRMED', 'BROADCAST'),
                ('FINALIZED', 'REFUNDED')
            ) THEN
                RAISE EXCEPTION 'payment intent % cannot go from % to %', OLD.id, OLD.status, NEW.status
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'payment_intent_moves';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER moves BEFORE UPDATE OF status ON payment_intent FOR EACH ROW
        WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION payment_intent_moves()
        """
    )
    op.execute(
        """
        CREATE FUNCTION payment_intent_is_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'payment intent % is fixed in what was to be changed', OLD.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'payment_intent_is_fixed';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER fixed BEFORE UPDATE ON payment_intent FOR EACH ROW
        WHEN ((OLD.org_id, OLD.id, OLD.chain, OLD.currency, OLD.amount, OLD.recipient, OLD.source,
               OLD.wallet_id, OLD.fund_id, OLD.reference, OLD.created_at)
              IS DISTINCT FROM (NEW.org_id, NEW.id, NEW.chain, NEW.currency, NEW.amount, NEW.recipient,
               NEW.source, NEW.wallet_id, NEW.fund_id, NEW.reference, NEW.created_at))
        EXECUTE FUNCTION payment_intent_is_fixed()
        """
    )
    op.execute(
        """
        CREATE FUNCTION payment_intent_begins() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'payment intent % begins as RESERVED', NEW.id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'payment_intent_begins';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER begins BEFORE INSERT ON payment_intent FOR EACH ROW
        WHEN (NEW.status <> 'RESERVED') EXECUTE FUNCTION payment_intent_begins()
        """
    )


def downgrade() -> None:
    for table, triggers in (
        ("payment_intent", ("begins", "fixed", "moves")),
        ("chain_payout", ("single", "kept", "fixed")),
        ("chain_attempt", ("due", "kept", "fixed")),
        ("chain_transaction", ("kept", "begins", "fixed", "moves")),
    ):
        for trigger in triggers:
            op.execute(f"DROP TRIGGER {trigger} ON {table}")
    op.execute(
        """
        DROP FUNCTION payment_intent_begins(), payment_intent_is_fixed(), payment_intent_moves(),
            chain_payout_is_single(), chain_payout_is_fixed(), chain_attempt_is_due(),
            chain_attempt_is_fixed(), chain_transaction_begins(), chain_transaction_is_fixed(),
            chain_transaction_moves()
        """
    )
    op.execute("ALTER TABLE payment_intent DROP COLUMN urgency")
    op.execute(f"UPDATE chain_payout SET error = '{_RETRY}' || coalesce(error, '') WHERE retry")  # noqa: S608
    op.execute("ALTER TABLE chain_payout DROP COLUMN code, DROP COLUMN retry")
    op.execute(
        f"""
        UPDATE chain_attempt AS attempt SET error = '{_CONSUMED}'
        FROM chain_transaction AS transaction
        WHERE transaction.id = attempt.transaction_id AND transaction.status = 'QUARANTINED'
        """  # noqa: S608
    )
    op.execute("ALTER TABLE chain_attempt DROP COLUMN cancels, DROP COLUMN answer")
    op.execute(
        """
        ALTER TABLE chain_transaction DROP CONSTRAINT known_status, DROP CONSTRAINT known_kind,
            DROP CONSTRAINT in_a_block, DROP CONSTRAINT in_no_block
        """
    )
    op.execute(
        "UPDATE chain_transaction SET status = 'BROADCAST' WHERE status IN ('INCLUDED', 'QUARANTINED')"
    )
    # Kinds that the earlier release does not know paid nobody, or moved our own money.
    op.execute("UPDATE chain_transaction SET kind = 'delegation' WHERE kind NOT IN ('transfer', 'batch')")
    op.execute(
        """
        ALTER TABLE chain_transaction
            ADD CONSTRAINT known_status CHECK (
                status IN ('SIGNED', 'BROADCAST', 'CONFIRMED', 'FINALIZED', 'EXPIRED')),
            ADD CONSTRAINT known_kind CHECK (kind IN ('transfer', 'batch', 'delegation'))
        """
    )
