"""Full-catalogue metrics, per objective and fused; reports and plots."""
