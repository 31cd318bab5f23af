"""What is charged: fee schedules, invoices, rebates and credit notes."""
